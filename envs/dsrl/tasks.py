"""The 38 tasks of DSRL: sizes, horizons, reference scores and the names of the published datasets.

Source: DSRL 0.1.0 (Liu et al. 2023, "Datasets and Benchmarks for Offline Safe Reinforcement Learning").
"""

import re
from functools import cache

from envs.registry import Task

# id after "Offline", observation size, action size, steps, minimal and maximal return, minimal and maximal
# cost, and the end of the dataset's file name: largest cost and number of episodes
_ROWS = """
AntCircle-v0 34 8 500 0.0177031010389328 460.7091979980469 0.0 200.0 200-5728
AntRun-v0 33 8 200 0.001767391717990563 955.4818725585938 0.0 150.0 150-1816
BallCircle-v0 8 2 200 0.38312244415283203 881.46337890625 0.0 80.0 80-886
BallRun-v0 7 2 100 26.339754104614258 1327.445556640625 0.0 80.0 80-940
CarCircle-v0 8 2 300 3.484419822692871 534.3060913085938 0.0 100.0 100-1450
CarRun-v0 7 2 200 204.28726196289062 574.6533203125 0.0 40.0 40-651
DroneCircle-v0 18 4 300 207.794189453125 996.38916015625 0.0 100.0 100-1923
DroneRun-v0 17 4 200 10.557029724121094 682.8330078125 0.0 140.0 140-1990
CarButton1Gymnasium-v0 88 2 1000 0.0028926206826067613 44.420003345738984 0.0 250.0 250-2656
CarButton2Gymnasium-v0 88 2 1000 0.001767391717990563 41.99513815522894 0.0 300.0 300-3755
CarCircle1Gymnasium-v0 40 2 500 8.037073135375977 24.94155502319336 0.0 250.0 250-1271
CarCircle2Gymnasium-v0 40 2 500 5.113386154174805 25.950098037719727 0.0 398.0 400-940
CarGoal1Gymnasium-v0 72 2 1000 0.012232819540852091 39.907809198384705 0.0 120.0 120-1671
CarGoal2Gymnasium-v0 72 2 1000 0.001032874531954775 28.902897990056502 0.0 200.0 200-4105
CarPush1Gymnasium-v0 88 2 1000 0.013700173533941762 16.304467598905237 0.0 200.0 200-2871
CarPush2Gymnasium-v0 88 2 1000 0.00029391133526335267 15.141648491514314 0.0 250.0 250-4407
PointButton1Gymnasium-v0 76 2 1000 0.008822109034937853 41.19301568767707 0.0 200.0 200-2268
PointButton2Gymnasium-v0 76 2 1000 0.014114166087574098 42.8985953616709 0.0 250.0 250-3288
PointCircle1Gymnasium-v0 28 2 500 20.067626953125 61.72819519042969 0.0 200.0 200-1098
PointCircle2Gymnasium-v0 28 2 500 20.478347778320312 54.02184295654297 0.0 299.0 300-895
PointGoal1Gymnasium-v0 60 2 1000 0.01196012764197707 30.071114857340543 0.0 100.0 100-2022
PointGoal2Gymnasium-v0 60 2 1000 0.002616959830266108 27.717709787852737 0.0 200.0 200-3442
PointPush1Gymnasium-v0 76 2 1000 0.0014001545292344209 16.518654299293367 0.0 150.0 150-2379
PointPush2Gymnasium-v0 76 2 1000 0.0012438183001730607 14.691039145644403 0.0 200.0 200-3242
AntVelocityGymnasium-v1 27 8 1000 6.1519012451171875 2976.276611328125 0.0 250.0 250-2249
HalfCheetahVelocityGymnasium-v1 17 6 1000 5.7509765625 2806.93310546875 0.0 250.0 250-2495
HopperVelocityGymnasium-v1 11 3 1000 37.05154800415039 1911.396728515625 0.0 250.0 250-2240
SwimmerVelocityGymnasium-v1 8 2 1000 0.07114458084106445 238.95831298828125 0.0 200.0 200-1686
Walker2dVelocityGymnasium-v1 17 6 1000 18.668498992919922 3418.223876953125 0.0 300.0 300-2729
Metadrive-easysparse-v0 259 2 1000 20.094310760498047 425.8006286621094 0.00025356505648232996 82.42418670654297 85-1000
Metadrive-easymean-v0 259 2 1000 22.142553329467773 425.82440185546875 0.0 82.38601684570312 85-1000
Metadrive-easydense-v0 259 2 1000 19.71139144897461 425.81732177734375 0.0 80.36358642578125 85-1000
Metadrive-mediumsparse-v0 259 2 1000 17.446578979492188 269.80084228515625 0.0 46.46459197998047 50-1000
Metadrive-mediummean-v0 259 2 1000 17.032529830932617 269.8221435546875 0.0 46.46154022216797 50-1000
Metadrive-mediumdense-v0 259 2 1000 15.102348327636719 269.7813415527344 0.0 46.45858383178711 50-1000
Metadrive-hardsparse-v0 259 2 1000 17.247974395751953 486.80523681640625 0.0 85.010009765625 85-1000
Metadrive-hardmean-v0 259 2 1000 19.387981414794922 486.9967956542969 0.00033149970113299787 84.33995056152344 85-1000
Metadrive-harddense-v0 259 2 1000 15.386894226074219 486.63616943359375 0.0 84.76679229736328 85-1000
"""


def _simulator(task_id: str) -> str:
    if "Metadrive" in task_id:
        return "metadrive"
    return "safety_gymnasium" if "Gymnasium" in task_id else "bullet"


def _dataset_file(task_id: str, contents: str) -> str:
    published = task_id.replace("OfflineMetadrive", "SafeMetaDrive").replace("Offline", "Safety")
    return f"{published}-{contents}.hdf5"


def _task(row: str) -> Task:
    rest, observation, action, steps, *scores, contents = row.split()
    task_id = f"Offline{rest}"
    min_reward, max_reward, min_cost, max_cost = map(float, scores)
    simulator = _simulator(task_id)
    return Task(
        id=task_id,
        name=re.sub(r"^Offline|Gymnasium|-v\d$", "", task_id),
        simulator=simulator,
        observation_size=int(observation),
        action_size=int(action),
        max_episode_steps=int(steps),
        min_episode_reward=min_reward,
        max_episode_reward=max_reward,
        min_episode_cost=min_cost,
        max_episode_cost=max_cost,
        dataset_file=_dataset_file(task_id, contents),
        # MetaDrive adds up crash severities; everywhere else a step is either a violation or not.
        binary_cost=simulator != "metadrive",
    )


@cache
def dsrl_tasks() -> tuple[Task, ...]:
    """Return the 38 tasks in the order of the benchmark's tables."""
    return tuple(_task(row) for row in _ROWS.strip().splitlines())
