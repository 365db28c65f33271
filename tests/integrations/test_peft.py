"""peft's adapters on sparse models: tiny, untrained transformers."""

import copy

import pytest
import torch

import sparselth as sl

peft = pytest.importorskip("peft", reason="peft is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:masks cover", "ignore:fan_in_fan_out"),
]

WORDS = 48
TOKENS = torch.arange(14).reshape(2, 7) * 3 % WORDS


def llama():
    config = transformers.LlamaConfig(
        vocab_size=WORDS, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config), ["q_proj", "down_proj"]


def gpt2():
    config = transformers.GPT2Config(
        vocab_size=WORDS, n_embd=32, n_layer=2, n_head=4, n_positions=16, bos_token_id=0,
        eos_token_id=1,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config), ["c_attn"]


MODELS = {"llama": llama, "gpt2": gpt2}


def logits(model):
    return model.eval()(input_ids=TOKENS).logits


def adapted(name, sparse_first=True):
    """Return a sparse model with trained adapters, its masks, and the wrapper's names for them."""
    torch.manual_seed(0)
    model, targets = MODELS[name]()
    config = peft.LoraConfig(r=4, target_modules=targets, init_lora_weights=False)
    if sparse_first:
        masks = sl.find_masks(model, sparsity=0.7)
        sl.sparsify(model, masks)
        model = peft.get_peft_model(model, config)
    else:
        model = peft.get_peft_model(model, config)
        masks = sl.find_masks(model, sparsity=0.7)
        sl.sparsify(model, masks)
    optimizer = sl.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        model(input_ids=TOKENS, labels=TOKENS).loss.backward()
        optimizer.step()
    return model, masks


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("sparse_first", [True, False])
def test_the_small_matrices_of_adapters_are_no_layers_to_prune(name, sparse_first):
    model, masks = adapted(name, sparse_first)
    assert not [one for one in masks if "lora" in one]
    found = sl.masks_of(model)
    assert [m.tolist() for m in found.values()] == [m.tolist() for m in masks.values()]
    left_out = sl.coverage(model).left_out
    adapters = [one for one in left_out if "lora" in one]
    assert len(adapters) == 2 * len(peft.utils.get_peft_model_state_dict(model)) // 2
    assert all("adapter" in left_out[one] for one in adapters)
    with pytest.raises(sl.SparselthError, match="an adapter"):
        sl.sparsify(model, {adapters[0]: model.get_parameter(adapters[0]) > 0})


@pytest.mark.parametrize("name", MODELS)
def test_adapters_train_beside_masked_weights_as_beside_dense_ones(name):
    model, _ = adapted(name)
    plain = sl.densify(copy.deepcopy(model))
    for net in (model, plain):
        net.zero_grad()
        logits(net).square().mean().backward()
    for p, q in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)


@pytest.mark.parametrize("name", MODELS)
def test_merging_keeps_the_masks_and_agrees_with_densify(name):
    model, masks = adapted(name)
    dense = sl.densify(copy.deepcopy(model)).merge_and_unload()
    merged = copy.deepcopy(model).merge_and_unload()
    assert sl.sparsity(merged) == sl.sparsity(masks)
    with torch.no_grad():
        for one, mask in masks.items():
            assert torch.equal(sl.masks_of(merged)[one], mask)
            assert not merged.get_parameter(one)[~mask].any()
            dense.get_parameter(one).mul_(mask)  # what merging puts off the mask is cut
    torch.testing.assert_close(logits(merged), logits(dense))
    torch.testing.assert_close(logits(sl.densify(copy.deepcopy(merged))), logits(dense))
    assert not [m for m in sl.densify(merged).modules() if isinstance(m, sl.nn.MaskedModule)]


@pytest.mark.parametrize("name", MODELS)
def test_merged_for_a_while_and_back(name):
    model, _ = adapted(name)
    before = logits(model)
    model.merge_adapter()
    merged = logits(model)
    assert (merged - before).abs().max() > 1e-4
    torch.testing.assert_close(logits(sl.densify(copy.deepcopy(model))), merged)
    model.unmerge_adapter()
    torch.testing.assert_close(logits(model), before)


def test_adapters_are_saved_without_masks_and_loaded(tmp_path):
    model, masks = adapted("llama")
    model.save_pretrained(tmp_path)
    torch.manual_seed(0)
    base, _ = llama()
    sl.sparsify(base, masks)
    loaded = peft.PeftModel.from_pretrained(base, tmp_path)
    torch.testing.assert_close(logits(loaded), logits(model))


@pytest.mark.parametrize("options", [{}, {"use_dora": True}])
def test_adapters_of_a_masked_convolution_are_plain_ones(options):
    """peft makes them by calling the class of the layer."""
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 4, 3))
    masks = sl.find_masks(model, sparsity=0.5, exclude=())
    sl.sparsify(model, masks)
    x = torch.randn(2, 3, 8, 8)
    want = model(x)
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["0", "1"], **options))
    torch.testing.assert_close(adapted(x), want)
    adapted(x).sum().backward()
    merged = adapted.merge_and_unload()
    assert sl.sparsity(merged) == pytest.approx(0.5, abs=0.01)
    torch.testing.assert_close(merged(x), want)
