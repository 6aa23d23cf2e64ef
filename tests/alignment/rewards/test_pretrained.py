"""Reward models in the files they are published in, tiny and with random weights."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from diffpolicy.alignment.reward import Reward, rate
from diffpolicy.alignment.rewards import (
    CLIP,
    AestheticReward,
    CLIPReward,
    HPSReward,
    ImageReward,
    PickScore,
    ScoreHead,
    prepare,
)
from diffpolicy.alignment.rewards.pretrained import weights as read_weights
from diffpolicy.training.errors import FeedbackError

transformers = pytest.importorskip("transformers")
PROMPTS = ["a cat", "a dog", "a cat"]
IMAGES = torch.rand(3, 3, 48, 40, generator=torch.Generator().manual_seed(0))
WIDTH, SIDE, PATCH = 16, 32, 16


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    block = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.CLIPConfig(
        text_config={
            **block,
            "vocab_size": 64,
            "max_position_embeddings": 12,
            "bos_token_id": 1,
            "eos_token_id": 0,
            "pad_token_id": 0,
            "hidden_act": "gelu",
        },
        vision_config={**block, "image_size": SIDE, "patch_size": PATCH, "hidden_act": "gelu"},
        projection_dim=8,
    )
    torch.manual_seed(0)
    transformers.CLIPModel(config).save_pretrained(folder)
    letters = [letter + end for letter in "abcdefghijklmnopqrstuvwxyz" for end in ("", "</w>")]
    tokens = ["<|endoftext|>", "<|startoftext|>", *letters]
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return folder


def has_gradient(reward: Reward) -> bool:
    images = IMAGES.clone().requires_grad_()
    rate(reward, images, PROMPTS).total.sum().backward()
    return images.grad is not None and bool((images.grad.flatten(1).abs().sum(1) > 0.0).all())


def test_clip_rewards_are_scaled_cosines(clip_folder: Path) -> None:
    plain, pick = CLIPReward.from_folder(clip_folder), PickScore.from_folder(clip_folder)
    total = rate(plain, IMAGES, PROMPTS).total
    model = plain.clip.model
    tokens = plain.clip.tokenizer(PROMPTS[:1], return_tensors="pt")
    output = model(pixel_values=prepare(IMAGES[:1], SIDE), input_ids=tokens.input_ids)
    torch.testing.assert_close(total[:1], F.cosine_similarity(output.image_embeds, output.text_embeds))
    torch.testing.assert_close(rate(pick, IMAGES, PROMPTS).total, total * model.logit_scale.exp().item())
    assert has_gradient(plain)
    assert not any(weight.requires_grad for weight in model.parameters())
    long = ["word " * 50] * 3
    assert torch.isfinite(rate(plain, IMAGES, long).total).all()
    half = CLIPReward.from_folder(clip_folder, dtype=torch.bfloat16)
    torch.testing.assert_close(rate(half, IMAGES, PROMPTS).total, total, atol=0.05, rtol=0.0)


def test_an_aesthetic_head_is_linear_and_read_from_a_file(clip_folder: Path, tmp_path: Path) -> None:
    head = ScoreHead(8)
    save_file(head.state_dict(), tmp_path / "head.safetensors")
    torch.save({"state_dict": head.state_dict()}, tmp_path / "head.pth")
    published = [
        "layers.0.weight",
        "layers.2.weight",
        "layers.4.weight",
        "layers.6.weight",
        "layers.7.weight",
    ]
    assert [name for name in ScoreHead().state_dict() if "weight" in name] == published
    embeddings = CLIP.from_folder(clip_folder).images(IMAGES)
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(3))
    slope = torch.linalg.multi_dot(
        [layer.weight for layer in reversed(head.layers) if isinstance(layer, nn.Linear)]
    )
    for name in ("head.safetensors", "head.pth"):
        reward = AestheticReward.from_folder(clip_folder, head=tmp_path / name)
        total = rate(reward, IMAGES, PROMPTS).total
        torch.testing.assert_close(
            total[0] - total[1], ((embeddings[0] - embeddings[1]) @ slope.T)[0], rtol=1e-3, atol=1e-6
        )
        assert has_gradient(reward)
    save_file(ScoreHead(9).state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(FeedbackError, match=r"not those of the head .*size mismatch"):
        AestheticReward.from_folder(clip_folder, head=tmp_path / "other.safetensors")


def open_clip_weights(folder: Path) -> dict[str, Tensor]:
    """Return other random weights than the folder's, in open_clip's names."""
    generator = torch.Generator().manual_seed(1)
    tower = {
        "attn.in_proj_weight": (3 * WIDTH, WIDTH),
        "attn.in_proj_bias": (3 * WIDTH,),
        "attn.out_proj.weight": (WIDTH, WIDTH),
        "attn.out_proj.bias": (WIDTH,),
        "mlp.c_fc.weight": (32, WIDTH),
        "mlp.c_fc.bias": (32,),
        "mlp.c_proj.weight": (WIDTH, 32),
        "mlp.c_proj.bias": (WIDTH,),
    } | {f"ln_{i}.{kind}": (WIDTH,) for i in (1, 2) for kind in ("weight", "bias")}
    shapes: dict[str, tuple[int, ...]] = {
        f"{prefix}transformer.resblocks.{layer}.{name}": shape
        for prefix in ("", "visual.")
        for layer in range(2)
        for name, shape in tower.items()
    }
    shapes |= {
        f"{name}.{kind}": (WIDTH,)
        for name in ("ln_final", "visual.ln_pre", "visual.ln_post")
        for kind in ("weight", "bias")
    }
    shapes |= {
        "visual.class_embedding": (WIDTH,),
        "visual.conv1.weight": (WIDTH, 3, PATCH, PATCH),
        "visual.positional_embedding": (5, WIDTH),
        "visual.proj": (WIDTH, 8),
        "token_embedding.weight": (64, WIDTH),
        "positional_embedding": (12, WIDTH),
        "text_projection": (WIDTH, 8),
        "logit_scale": (),
    }
    return {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def transformer(x: Tensor, found: dict[str, Tensor], prefix: str, causal: bool) -> Tensor:
    """Return what open_clip's blocks make of tokens (B, N, D), written with PyTorch's own attention."""
    for layer in range(2):
        part = {
            k.removeprefix(f"{prefix}{layer}."): v
            for k, v in found.items()
            if k.startswith(f"{prefix}{layer}.")
        }
        attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        attention.load_state_dict(
            {k.removeprefix("attn."): v for k, v in part.items() if k.startswith("attn.")}
        )
        mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1) if causal else None
        y = F.layer_norm(x, (WIDTH,), part["ln_1.weight"], part["ln_1.bias"])
        x = x + attention(y, y, y, attn_mask=mask, need_weights=False)[0]
        y = F.layer_norm(x, (WIDTH,), part["ln_2.weight"], part["ln_2.bias"])
        y = F.gelu(F.linear(y, part["mlp.c_fc.weight"], part["mlp.c_fc.bias"]))
        x = x + F.linear(y, part["mlp.c_proj.weight"], part["mlp.c_proj.bias"])
    return x


def test_hps_reads_open_clip_checkpoints(clip_folder: Path, tmp_path: Path) -> None:
    found = open_clip_weights(clip_folder)
    torch.save({"epoch": 1, "state_dict": found | {"attn_mask": torch.zeros(12, 12)}}, tmp_path / "hps.pt")
    reward = HPSReward.from_folder(clip_folder, checkpoint=tmp_path / "hps.pt")
    ids = reward.clip.tokenizer(PROMPTS[:1], return_tensors="pt").input_ids

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (WIDTH,), found[f"{name}.weight"], found[f"{name}.bias"])

    patches = F.conv2d(prepare(IMAGES[:1], SIDE), found["visual.conv1.weight"], stride=PATCH).flatten(2).mT
    x = (
        torch.cat([found["visual.class_embedding"][None, None], patches], 1)
        + found["visual.positional_embedding"]
    )
    x = transformer(norm(x, "visual.ln_pre"), found, "visual.transformer.resblocks.", causal=False)
    image = norm(x[:, 0], "visual.ln_post") @ found["visual.proj"]
    x = found["token_embedding.weight"][ids] + found["positional_embedding"][: ids.shape[1]]
    x = norm(transformer(x, found, "transformer.resblocks.", causal=True), "ln_final")
    text = x[:, -1] @ found["text_projection"]  # the end of the text is the last token of a single one
    wanted = F.cosine_similarity(image, text)
    torch.testing.assert_close(rate(reward, IMAGES, PROMPTS).total[:1], wanted, atol=1e-5, rtol=1e-4)
    torch.save({"module.visual.proj": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(FeedbackError, match="open_clip's names"):
        HPSReward.from_folder(clip_folder, checkpoint=tmp_path / "other.pt")


@pytest.fixture(scope="module")
def image_reward_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a tiny checkpoint in the published names; the text transformer's are BERT's."""
    folder, generator = tmp_path_factory.mktemp("image_reward"), torch.Generator().manual_seed(2)
    sizes = {"vocab_size": 40, "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 1}
    sizes |= {"num_attention_heads": 2, "max_position_embeddings": 64}
    (folder / "med_config.json").write_text(
        json.dumps(sizes | {"layer_norm_eps": 1e-12, "add_cross_attention": True})
    )
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "dog"]
    (folder / "vocab.txt").write_text("\n".join(words))
    wide, vision = 64, "blip.visual_encoder."
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, wide),
        "pos_embed": (1, 5, wide),
        "patch_embed.proj.weight": (wide, 3, PATCH, PATCH),
        "patch_embed.proj.bias": (wide,),
        "blocks.0.attn.qkv.weight": (3 * wide, wide),
        "blocks.0.attn.qkv.bias": (3 * wide,),
        "blocks.0.attn.proj.weight": (wide, wide),
        "blocks.0.attn.proj.bias": (wide,),
        "blocks.0.mlp.fc1.weight": (96, wide),
        "blocks.0.mlp.fc1.bias": (96,),
        "blocks.0.mlp.fc2.weight": (wide, 96),
        "blocks.0.mlp.fc2.bias": (wide,),
    } | {
        f"{name}.{kind}": (wide,)
        for name in ("norm", "blocks.0.norm1", "blocks.0.norm2")
        for kind in ("weight", "bias")
    }
    found = {vision + name: 0.2 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    text, at = "blip.text_encoder.", "encoder.layer.0."
    layers = {"embeddings.word_embeddings": (40, 24), "embeddings.position_embeddings": (64, 24)}
    linear = {at + "intermediate.dense": (32, 24), at + "output.dense": (24, 32)}
    for kind, seen in (("attention", 24), ("crossattention", wide)):
        linear |= {f"{at}{kind}.self.{name}": (24, seen) for name in ("key", "value")}
        linear |= {f"{at}{kind}.self.query": (24, 24), f"{at}{kind}.output.dense": (24, 24)}
    norms = ["embeddings", at + "attention.output", at + "crossattention.output", at + "output"]
    weights = {f"{name}.weight": shape for name, shape in (layers | linear).items()}
    biases = {f"{name}.bias": (shape[0],) for name, shape in linear.items()}
    scales = {f"{name}.LayerNorm.{kind}": (24,) for name in norms for kind in ("weight", "bias")}
    for name, shape in (weights | biases | scales).items():
        found[text + name] = 0.2 * torch.randn(shape, generator=generator)
    found[text + "embeddings.position_ids"] = torch.arange(64)[None]
    found |= {f"mlp.{name}": value for name, value in ScoreHead(24).state_dict().items()}
    torch.save(found, folder / "ImageReward.pt")
    return folder


def test_image_reward_reads_its_published_names(image_reward_folder: Path) -> None:
    reward = ImageReward.from_folder(image_reward_folder)
    found = read_weights(image_reward_folder / "ImageReward.pt", "it")
    part = {k.removeprefix("blip.visual_encoder."): v for k, v in found.items() if "visual" in k}
    pixels = prepare(IMAGES, SIDE)
    x = (
        F.conv2d(pixels, part["patch_embed.proj.weight"], part["patch_embed.proj.bias"], stride=PATCH)
        .flatten(2)
        .mT
    )
    x = torch.cat([part["cls_token"].expand(3, -1, -1), x], 1) + part["pos_embed"]

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (64,), part[f"{name}.weight"], part[f"{name}.bias"], 1e-6)

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, part[f"blocks.0.{name}.weight"], part[f"blocks.0.{name}.bias"])

    query, key, value = linear(norm(x, "blocks.0.norm1"), "attn.qkv").chunk(3, dim=2)
    x = x + linear(F.scaled_dot_product_attention(query, key, value), "attn.proj")  # 64 wide: a single head
    x = x + linear(F.gelu(linear(norm(x, "blocks.0.norm2"), "mlp.fc1")), "mlp.fc2")
    torch.testing.assert_close(reward.vision(pixels).last_hidden_state, norm(x, "norm"), atol=1e-5, rtol=1e-4)
    total = rate(reward, IMAGES, PROMPTS).total
    assert total.unique().numel() == 3
    swapped = rate(reward, IMAGES, ["a dog", "a cat", "a cat"]).total
    assert (swapped[:2] != total[:2]).all()  # the prompt matters
    assert swapped[2] == total[2]
    assert has_gradient(reward)
    for weight in reward.head.parameters():
        weight.zero_()
    torch.testing.assert_close(
        rate(reward, IMAGES, PROMPTS).total, torch.full((3,), -0.16717 / 1.03334), atol=1e-5, rtol=0.0
    )


def test_one_sentence_says_what_is_missing(
    clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FeedbackError, match=r"there is no folder .*nowhere: download a CLIP"):
        CLIPReward.from_folder(tmp_path / "nowhere")
    with pytest.raises(FeedbackError, match="does not hold a CLIP"):
        CLIPReward.from_folder(tmp_path)
    with pytest.raises(FeedbackError, match=r"no file .*aesthetic.safetensors: download the head"):
        AestheticReward.from_folder(clip_folder)
    with pytest.raises(FeedbackError, match=r"lacks ImageReward.pt, med_config.json, vocab.txt: download"):
        ImageReward.from_folder(tmp_path)
    (tmp_path / "bad.pt").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(FeedbackError, match="is not the checkpoint of HPS v2"):
        HPSReward.from_folder(clip_folder, checkpoint=tmp_path / "bad.pt")

    def offline(*args: Any, **options: Any) -> None:
        assert not options["local_files_only"]
        raise OSError("no connection\nand much more")

    monkeypatch.setattr(transformers.CLIPModel, "from_pretrained", offline)
    with pytest.raises(
        FeedbackError, match=r"nor the hub gave some/clip, .*no connection\); download it"
    ) as caught:
        CLIPReward.from_folder("some/clip")
    assert "\n" not in str(caught.value)
