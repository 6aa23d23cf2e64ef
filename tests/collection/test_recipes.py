import envs
from diffpolicy.cli.config import build
from diffpolicy.collection import CollectConfig
from diffpolicy.collection.recipes import RECIPES


def test_every_recipe_is_a_valid_run_of_a_known_task() -> None:
    for name, recipe in RECIPES.items():
        task, config = envs.task(name), build(CollectConfig, dict(recipe), name)
        assert task.name == name
        assert config.steps >= 100 * task.max_episode_steps
        assert not config.online or config.num_envs % len(config.ladder) == 0
