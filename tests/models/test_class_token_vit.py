"""The classifier: sequence, masking, gates, sizes, pretrained start, parameter counts and what autograd keeps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import nn

from ctm.errors import ModelError
from ctm.models.attention import record_class_rows, record_patch_affinity
from ctm.models.class_token_vit import ClassTokenViT
from ctm.models.config import GatesConfig, ModelConfig
from ctm.models.patch_head import pool_by_rank

WEIGHTS = Path(__file__).parents[3] / "shared/weights/vit_small_patch14_dinov2_fp16.safetensors"
needs_weights = pytest.mark.skipif(not WEIGHTS.is_file(), reason="the shared weights file is not in this checkout")


def tiny(*, classes: int = 5, channels: int = 3, size: tuple[int, int] = (8, 12), **sizes: object) -> ClassTokenViT:
    settings = {"patch_size": 4, "depth": 3, "embed_dim": 24, "num_heads": 3, **sizes}
    config = ModelConfig(backbone="vit_tiny_patch16_224", image_size=size, **settings)
    torch.manual_seed(0)
    return ClassTokenViT(config, GatesConfig(), num_classes=classes, in_channels=channels)


@pytest.mark.parametrize("channels", [1, 3, 15])
@pytest.mark.parametrize("size", [(8, 12), (12, 8), (8, 8)])
def test_any_channels_and_non_square_grids_give_one_logit_a_class(channels, size):
    model = tiny(channels=channels, size=size).eval()
    assert model.grid == (size[0] // 4, size[1] // 4)
    assert model(torch.randn(2, channels, *size)).shape == (2, 5)
    assert model.attention_maps(torch.randn(2, channels, *size))[0].shape == (2, 5, *model.grid)


def test_the_sequence_is_class_tokens_then_patches_row_by_row_then_the_register():
    model = tiny()
    model.pos_embed.data.zero_()
    images = torch.randn(2, 3, 8, 12)
    sequence = model.embed(images)
    weight = model.patch_embed.proj.weight.flatten(1)
    second_row_first_column = images[:, :, 4:8, 0:4].flatten(1) @ weight.T + model.patch_embed.proj.bias
    assert sequence.shape == (2, 5 + 6 + 1, 24)
    assert torch.equal(sequence[:, :5], model.class_tokens.expand(2, -1, -1))
    assert torch.allclose(sequence[:, model.patches][:, 3], second_row_first_column, atol=1e-5)
    assert torch.equal(sequence[:, -1], model.register_token[:, 0].expand(2, -1))
    assert model.patches == slice(5, 11)


def with_gates(model: ClassTokenViT, logit: float) -> ClassTokenViT:
    """At 50 every sample is open, at 0 half of the heads are shut, others in each step."""
    for gate in model.gates:
        nn.init.constant_(gate.log_alpha, logit)
    return model


def test_absent_tokens_are_masked_in_the_training_logits_alone():
    model = with_gates(tiny(), 50.0)
    images, absent = torch.randn(2, 3, 8, 12), torch.zeros(2, 5, dtype=torch.bool)
    clear = model.eval()(images)
    assert torch.allclose(model.train()(images), clear, atol=1e-5)
    generator = torch.Generator().manual_seed(0)
    logits = model.train().training_logits(images, absent, masking_ratio=0.9999, generator=generator)
    assert torch.allclose(logits.masked, model.head.bias.expand(2, -1), atol=1e-6)
    assert torch.allclose(logits.unmasked, clear, atol=1e-5)
    assert logits.masked.requires_grad
    assert not logits.unmasked.requires_grad
    assert logits.patches is None


def test_without_masking_or_absent_classes_the_training_logits_are_those_of_forward():
    model, images = with_gates(tiny(), 50.0), torch.randn(2, 3, 8, 12)
    for present, ratio in ((torch.zeros(2, 5, dtype=torch.bool), 0.0), (torch.ones(2, 5, dtype=torch.bool), 0.9)):
        logits = model.training_logits(images, present, masking_ratio=ratio)
        assert torch.equal(logits.masked, logits.unmasked)
        assert torch.allclose(logits.masked, model(images), atol=1e-5)


def test_the_gate_generator_fixes_the_gates_and_the_other_one_the_masking():
    model = with_gates(tiny(), 0.0)
    images, absent = torch.randn(2, 3, 8, 12), torch.zeros(2, 5, dtype=torch.bool)

    def logits(gate_seed: int, mask_seed: int) -> torch.Tensor:
        gates, masks = (torch.Generator().manual_seed(seed) for seed in (gate_seed, mask_seed))
        return model.training_logits(images, absent, masking_ratio=0.5, gate_generator=gates, generator=masks).masked

    assert torch.equal(logits(1, 1), logits(1, 1))
    assert not torch.equal(logits(1, 1), logits(2, 1))
    assert not torch.equal(logits(1, 1), logits(1, 2))
    assert all(attention.held is None for attention in model.attentions)


def training_step(
    model: ClassTokenViT, images: torch.Tensor, present: torch.Tensor, *, bf16: bool = False
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Loss and gradients of a step whose draws are always the same."""
    torch.manual_seed(3)  # the dropped paths
    gates, masks = (torch.Generator().manual_seed(seed) for seed in (1, 2))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        logits = model.training_logits(images, present, masking_ratio=0.5, gate_generator=gates, generator=masks)
    loss = logits.masked.float().square().sum() + logits.patches.float().square().sum() + model.gate_penalty()
    model.zero_grad()
    loss.backward()
    return loss.detach(), {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("hard", [False, True])
def test_gradient_checkpointing_changes_neither_the_loss_nor_a_gradient(bf16, hard):
    config = ModelConfig(
        backbone="test_vit", image_size=(16, 16), patch_size=4, depth=3, drop_path=0.5, patch_head=True
    )
    torch.manual_seed(0)
    model = with_gates(ClassTokenViT(config, GatesConfig(hard=hard), num_classes=5, in_channels=3), 0.0)
    images, present = torch.randn(4, 3, 16, 16), torch.rand(4, 5) < 0.4
    loss, gradients = training_step(model, images, present, bf16=bf16)
    model.set_grad_checkpointing()
    again, others = training_step(model, images, present, bf16=bf16)
    assert torch.equal(again, loss)
    assert [name for name in gradients if not torch.equal(gradients[name], others[name])] == []
    model.set_grad_checkpointing(enable=False)
    assert not model.grad_checkpointing


def test_gates_drawn_from_the_global_generator_survive_checkpointing():
    model, images = with_gates(tiny(), 0.0), torch.randn(2, 3, 8, 12)
    gradients = []
    for _ in range(2):
        torch.manual_seed(5)
        model.zero_grad()
        model(images).sum().backward()
        gradients.append(model.class_tokens.grad.clone())
        model.set_grad_checkpointing()
    assert torch.equal(*gradients)


def test_a_second_forward_pass_before_the_backward_pass_keeps_its_own_gates():
    model, images = with_gates(tiny(), 0.0), torch.randn(2, 3, 8, 12)
    gradients = []
    for _ in range(2):
        generator = torch.Generator().manual_seed(7)
        model.zero_grad()
        first, second = (model.classify(model.encode(model.embed(images), gate_generator=generator)) for _ in range(2))
        (first.sum() + second.square().sum()).backward()
        gradients.append(model.pos_embed.grad.clone())
        model.set_grad_checkpointing()
    assert torch.equal(*gradients)


def test_gradient_checkpointing_keeps_nothing_inside_a_block_and_ends_with_training():
    model, images = tiny(), torch.randn(2, 3, 8, 12)
    inside = (2, 12, 4 * 24)  # what leaves the first layer of a block's MLP
    assert inside in shapes_kept_by_autograd(model, images)
    model.set_grad_checkpointing()
    assert inside not in shapes_kept_by_autograd(model, images)
    assert inside in shapes_kept_by_autograd(model.eval(), images)


def test_a_closed_gate_takes_exactly_its_head_out():
    model = tiny(depth=1).eval()
    images = torch.randn(2, 3, 8, 12)
    model.gates[0].log_alpha.data[1] = -1.0
    gated = model(images)
    model.gates[0].log_alpha.data[1] = 1.0
    assert not torch.allclose(model(images), gated, atol=1e-4)
    model.attentions[0].proj.weight.data[:, 8:16] = 0  # columns of head 1
    assert torch.allclose(model(images), gated, atol=1e-5)


def test_the_gate_penalty_sums_over_blocks_and_reaches_every_gate():
    model = tiny()
    penalty = model.gate_penalty()
    penalty.backward()
    assert penalty.item() == pytest.approx(9 * torch.tensor(2.5 + 0.7913).sigmoid().item(), rel=1e-4)
    assert all((gate.log_alpha.grad > 0).all() for gate in model.gates)


@pytest.mark.parametrize("register_token", [True, False])
def test_every_parameter_gets_a_gradient_in_training(register_token):
    model = tiny(patch_head=True, register_token=register_token)
    present = torch.ones(2, 5, dtype=torch.bool)
    for size in ((8, 12), (12, 16)):
        model.zero_grad()
        logits = model.training_logits(torch.randn(2, 3, *size), present, masking_ratio=0.5)
        (logits.masked.square().sum() + logits.patches.square().sum()).backward()
        assert [name for name, p in model.named_parameters() if p.grad is None] == []


def shapes_kept_by_autograd(model: ClassTokenViT, images: torch.Tensor) -> list[tuple[int, ...]]:
    shapes: list[tuple[int, ...]] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model(images).sum()
    return shapes


@pytest.mark.parametrize("training", [True, False])
def test_autograd_keeps_no_attention_matrix_and_recording_keeps_the_class_rows_alone(training):
    model = tiny(size=(28, 40)).train(training)  # N = 5 + 70 + 1
    images = torch.randn(2, 3, 28, 40)
    plain = shapes_kept_by_autograd(model, images)
    assert not [shape for shape in plain if shape.count(76) > 1 or {70, 76} <= set(shape)]
    assert (2, 3, 5, 76) not in plain
    with record_class_rows(model.attentions, 5), record_patch_affinity(model.attentions, model.patches):
        recorded = shapes_kept_by_autograd(model, images)
    assert not [shape for shape in recorded if shape.count(76) > 1 or shape.count(70) > 1 or {70, 76} <= set(shape)]
    assert (2, 3, 5, 76) in recorded


def test_recording_changes_no_logit_and_ends_with_its_context():
    model = tiny().eval()
    images = torch.randn(2, 3, 8, 12)
    plain = model(images)
    with record_class_rows(model.attentions[1:], 5) as rows:
        assert torch.allclose(model(images), plain, atol=1e-5)
    assert [tuple(r.shape) for r in rows] == [(2, 3, 5, 12)] * 2
    assert torch.allclose(rows[0].sum(dim=-1), torch.ones(2, 3, 5), atol=1e-5)
    model(images)
    assert len(rows) == 2


@pytest.mark.parametrize(
    ("size", "advice"),
    [
        ((200, 320), ["200x320", "patch size 16", "height 200: use 192 or 208"]),
        ((208, 330), ["width 330: use 320 or 336"]),
        ((10, 30), ["height 10: use 16", "width 30: use 16 or 32"]),
    ],
)
def test_an_image_size_off_the_patch_grid_names_the_valid_sizes_around(size, advice):
    with pytest.raises(ModelError) as error:
        tiny(size=size, patch_size=None)
    assert all(words in str(error.value) for words in advice)


@pytest.mark.parametrize(
    ("shape", "words"), [((2, 8, 12), "of 3 channels, not 2"), ((3, 8, 14), "width 14: use 12 or 16")]
)
def test_images_that_the_model_cannot_read_are_refused_with_what_it_can(shape, words):
    with pytest.raises(ModelError, match=words):
        tiny()(torch.zeros(1, *shape))


@pytest.mark.parametrize("size", [(8, 12), (12, 8), (16, 24), (4, 4)])
@pytest.mark.parametrize("settings", [{}, {"register_token": False}, {"patch_head": True}])
def test_images_of_another_size_are_read_on_their_own_grid(size, settings):
    model, images = tiny(**settings).eval(), torch.randn(2, 3, *size)
    grid = (size[0] // 4, size[1] // 4)
    assert model.grid_of(images) == grid
    sequence = model.embed(images)
    assert sequence.shape[1] == 5 + grid[0] * grid[1] + int(settings.get("register_token", True))
    maps, logits = model.attention_maps(images)
    assert maps.shape == (2, 5, *grid)
    assert torch.allclose(logits, model(images), atol=1e-5)
    assert (model.grid, model.patches) == ((2, 3), slice(5, 11))  # those of its own size


def at_size(model: ClassTokenViT, size: tuple[int, int], *, antialias: bool) -> ClassTokenViT:
    """The same weights built for another size, the patches' positions resized by timm."""
    weights = model.state_dict()
    classes, patches, register = weights["pos_embed"].split([5, model.grid[0] * model.grid[1], 1], dim=1)
    other = tiny(size=size)
    patches = resample_abs_pos_embed(
        patches, list(other.grid), list(model.grid), num_prefix_tokens=0, antialias=antialias
    )
    other.load_state_dict({**weights, "pos_embed": torch.cat([classes, patches, register], dim=1)})
    return other.eval()


@pytest.mark.parametrize("size", [(16, 16), (24, 12), (32, 48), (4, 12)])
def test_another_size_equals_a_model_built_for_it_with_timms_positions_without_antialias(size):
    model, images = tiny(size=(16, 24)).eval(), torch.randn(2, 3, *size)
    assert torch.equal(model(images), at_size(model, size, antialias=False)(images))
    # Timm's own start from a pretrained file antialiases, which is another kernel at every size: near, not equal.
    antialiased = at_size(model, size, antialias=True)(images)
    assert not torch.equal(model(images), antialiased)
    assert torch.allclose(model(images), antialiased, atol=0.05)


def test_a_grid_of_as_many_patches_in_another_shape_gets_positions_of_its_own():
    model = tiny(size=(8, 32)).eval()
    assert not torch.equal(model._positions((4, 4)), model.pos_embed)
    assert torch.equal(model._positions((2, 8)), model.pos_embed)


def test_resized_positions_take_part_in_the_gradient():
    model = tiny()
    model(torch.randn(1, 3, 16, 24)).sum().backward()
    assert (model.pos_embed.grad != 0).all()


def cut_down(model: ClassTokenViT, classes: list[int], *, size: tuple[int, int], head: str) -> ClassTokenViT:
    """A model built for these classes alone, with the weights that belong to them."""
    small, weights = tiny(classes=len(classes), size=size, patch_head=True, head=head), model.state_dict()
    kept = {name: value for name, value in weights.items() if name.startswith(("blocks", "norm", "patch_embed"))}
    kept["register_token"], kept["class_tokens"] = weights["register_token"], weights["class_tokens"][:, classes]
    kept["pos_embed"] = torch.cat([weights["pos_embed"][:, classes], weights["pos_embed"][:, 5:]], dim=1)
    rows = weights["head.weight"][classes]
    kept["head.weight"] = rows if head == "diagonal" else rows.view(-1, 5, 24)[:, classes].flatten(1)
    for name in ("head.bias", "patch_head.linear.weight", "patch_head.linear.bias"):
        kept[name] = weights[name][classes]
    small.load_state_dict(kept)
    return small.eval()


@pytest.mark.parametrize("head", ["dense", "diagonal"])
@pytest.mark.parametrize("size", [(8, 12), (12, 16)])
def test_a_view_on_some_classes_equals_a_model_of_these_classes_alone(head, size):
    model, images = tiny(patch_head=True, head=head).eval(), torch.randn(3, 3, *size)
    chosen = [[0, 3], [1, 4], [2, 3]]
    before = model(images)
    view = model.restricted_to(torch.tensor(chosen))
    maps, logits = view.attention_maps(images)
    scores = view.patch_scores(view.encode(view.embed(images)), view.grid_of(images))
    for b, classes in enumerate(chosen):
        small, image = cut_down(model, classes, size=(8, 12), head=head), images[b : b + 1]
        assert torch.allclose(logits[b], small(image)[0], atol=1e-5)
        assert torch.allclose(maps[b], small.attention_maps(image)[0][0], atol=1e-5)
        expected = small.patch_scores(small.encode(small.embed(image)), small.grid_of(image))
        assert torch.allclose(scores[b], expected[0], atol=1e-5)
    assert torch.equal(model(images), before)
    assert (model.num_classes, view.num_classes) == (5, 2)
    assert all(mine is its for mine, its in zip(model.parameters(), view.parameters(), strict=True))


def test_without_the_register_the_sequence_ends_with_the_patches():
    model = tiny(register_token=False)
    assert model.register_token is None
    assert model.pos_embed.shape[1] == model.embed(torch.randn(1, 3, 8, 12)).shape[1] == 5 + 6
    assert model.no_weight_decay() == {"class_tokens", "pos_embed"} | {
        f"blocks.{i}.attn.gate.log_alpha" for i in range(3)
    }


@pytest.mark.parametrize("size", [(8, 12), (16, 12)])
def test_patch_scores_are_the_patch_head_on_normed_patch_tokens_one_by_one(size):
    model, images = with_gates(tiny(patch_head=True), 50.0), torch.randn(2, 3, *size)
    tokens = model.encode(model.embed(images))
    grid = model.grid_of(images)
    scores = model.patch_scores(tokens, grid)
    assert scores.shape == (2, 5, *grid)
    for row in range(grid[0]):
        for column in range(grid[1]):
            token = model.norm(tokens[:, 5 + row * grid[1] + column])
            assert torch.allclose(scores[:, :, row, column], model.patch_head.linear(token), atol=1e-5)
    logits = model.training_logits(images, torch.ones(2, 5, dtype=torch.bool), masking_ratio=0.5)
    assert torch.allclose(logits.patches, pool_by_rank(scores.flatten(2).transpose(1, 2)), atol=1e-5)


def test_a_patch_head_changes_nothing_else():
    plain, headed, images = tiny().eval(), tiny(patch_head=True).eval(), torch.randn(2, 3, 8, 12)
    assert torch.equal(plain(images), headed(images))
    assert sum(p.numel() for p in headed.parameters()) - sum(p.numel() for p in plain.parameters()) == 24 * 5 + 5


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"backbone": "vit_smal_patch16_224"}, "vit_small_patch16_224"),
        ({"backbone": "resnet50"}, "not a Vision Transformer"),
        ({"backbone": "vit_small_patch16_18x2_224", "depth": 1}, "without plain self-attention"),
        ({"backbone": "test_vit", "num_heads": 7}, "'num_heads': 7"),
        ({"backbone": "test_vit", "pretrained": "no/such.safetensors"}, "no/such.safetensors"),
        ({"backbone": "test_vit", "pretrained": "weights.pth"}, "no .safetensors file"),
    ],
)
def test_models_that_cannot_be_built_say_why(settings, words):
    with pytest.raises(ModelError) as error:
        ClassTokenViT(ModelConfig(**settings), GatesConfig(), num_classes=2, in_channels=3)
    assert words in str(error.value)


@needs_weights
@pytest.mark.parametrize("channels", [1, 3, 15])
def test_a_pretrained_file_fits_other_channels_and_grids(channels):
    config = ModelConfig(backbone="vit_small_patch14_dinov2", image_size=(56, 112), pretrained=str(WEIGHTS))
    model = ClassTokenViT(config, GatesConfig(), num_classes=4, in_channels=channels)
    with safe_open(WEIGHTS, "pt") as file:
        token = file.get_tensor("cls_token").float()
        position = file.get_tensor("pos_embed").float()[:, :1]
        first = file.get_tensor("patch_embed.proj.weight").float()
        qkv = file.get_tensor("blocks.11.attn.qkv.weight").float()
    assert model.grid == (4, 8)
    assert torch.equal(model.attentions[11].qkv.weight, qkv)
    weight = model.patch_embed.proj.weight
    # A grey value in every channel must come out as it does in three.
    assert torch.allclose(weight.sum(dim=1), first.sum(dim=1), atol=1e-3)
    for ours, theirs in ((model.class_tokens, token), (model.pos_embed[:, :4], position)):
        noise = (ours - theirs).detach()
        assert noise.std().item() == pytest.approx(0.1 * theirs.std().item(), rel=0.1)
        assert (noise[0, 0] - noise[0, 1]).abs().max() > 0
    assert torch.isfinite(model.eval()(torch.randn(1, channels, 56, 112))).all()


@needs_weights
def test_a_pretrained_file_of_other_sizes_is_refused():
    config = ModelConfig(backbone="vit_small_patch14_dinov2", image_size=56, depth=3, pretrained=str(WEIGHTS))
    with pytest.raises(ModelError, match="'depth': 3"):
        ClassTokenViT(config, GatesConfig(), num_classes=2, in_channels=3)


@pytest.mark.parametrize("backbone", ["test_vit", "test_vit2", "test_vit3", "test_vit4"])
def test_backbones_with_dynamic_sizes_pooling_heads_and_layer_scale_work(backbone):
    config = ModelConfig(backbone=backbone, image_size=32)
    model = ClassTokenViT(config, GatesConfig(), num_classes=3, in_channels=2)
    assert not isinstance(model.norm, nn.Identity)
    assert model.eval()(torch.randn(2, 2, 32, 32)).shape == (2, 3)


def test_configured_image_sizes_are_height_then_width_and_floats_without_fraction_pass():
    assert ModelConfig(image_size=[208, 320]).size == (208, 320)
    assert ModelConfig(image_size=224.0).size == (224, 224)
    with pytest.raises(ValueError, match="fractional part"):
        ModelConfig(image_size=224.5)
