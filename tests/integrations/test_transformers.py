"""transformers' language models, tiny and untrained."""

import copy

import pytest
import torch
from support.dense_twin import assert_agree, twin_of

import sparselth as sl

transformers = pytest.importorskip("transformers", reason="transformers is not installed")
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:masks cover"),
]

WORDS = 48
SMALL = {
    "vocab_size": WORDS,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
GROUPED = {**SMALL, "num_key_value_heads": 2, "bos_token_id": 0, "eos_token_id": 1}


def gpt2():
    config = transformers.GPT2Config(
        vocab_size=WORDS, n_embd=32, n_layer=2, n_head=4, n_positions=16, bos_token_id=0,
        eos_token_id=1, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config)


def bert():
    return transformers.BertForSequenceClassification(
        transformers.BertConfig(**SMALL, max_position_embeddings=16)
    )


def llama(**options):
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**GROUPED, **options))


def t5():
    config = transformers.T5Config(
        vocab_size=WORDS, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4,
        decoder_start_token_id=0, tie_word_embeddings=True,
    )  # fmt: skip
    return transformers.T5ForConditionalGeneration(config)


def mixtral():
    return transformers.MixtralForCausalLM(
        transformers.MixtralConfig(**GROUPED, num_local_experts=4, num_experts_per_tok=2)
    )


def qwen_moe():
    return transformers.Qwen3MoeForCausalLM(
        transformers.Qwen3MoeConfig(
            **GROUPED, moe_intermediate_size=16, num_experts=4, num_experts_per_tok=2, head_dim=8
        )
    )


def made(make, **options):
    torch.manual_seed(0)
    return make(**options).eval()


TOKENS = torch.arange(14).reshape(2, 7) * 3 % WORDS


def logits(model):
    if model.config.is_encoder_decoder:
        return model(input_ids=TOKENS, decoder_input_ids=TOKENS.flip(1)).logits
    return model(input_ids=TOKENS).logits


MODELS = {make.__name__: make for make in (gpt2, bert, llama, t5, mixtral, qwen_moe)}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_computes_what_its_masked_twin_does(name):
    model = made(MODELS[name])
    masks = sl.find_masks(model, sparsity=0.8)
    assert len(masks) >= 8
    assert_agree(model, twin_of(model, masks), masks, logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["gpt2", "t5", "llama"])
def test_it_generates_as_the_plain_model(name):
    model = made(MODELS[name])
    sl.sparsify(model, sl.find_masks(model, sparsity=0.5))
    plain = sl.densify(copy.deepcopy(model))
    given = {"input_ids": TOKENS, "attention_mask": torch.ones_like(TOKENS)}
    words = [m.generate(**given, max_new_tokens=4, do_sample=False) for m in (model, plain)]
    assert torch.equal(*words)


def test_patterns_see_gpt2s_weights_turned():
    model = made(gpt2)
    names = [n for n, m in model.named_modules() if type(m).__name__ == "Conv1D"]
    masks = sl.find_masks(model, sparsity=0.5, pattern="filter")
    assert set(masks) == {f"{name}.weight" for name in names}
    for mask in masks.values():
        of_outputs = mask[0]  # weights are (in, out): an output is a column
        assert torch.equal(mask, of_outputs.expand_as(mask))
        assert of_outputs.sum() == mask.shape[1] // 2
    linear = torch.nn.Linear(32, 96)
    with torch.no_grad():
        linear.weight.copy_(model.get_parameter(f"{names[0]}.weight").T)
    (want,) = sl.find_masks(linear, sparsity=0.5, pattern="4x1", exclude=()).values()
    found = sl.find_masks(model, sparsity=0.5, pattern="4x1")[f"{names[0]}.weight"]
    assert torch.equal(found.T, want)


@pytest.mark.parametrize(
    ("make", "experts"), [(mixtral, "MixtralExperts"), (qwen_moe, "Qwen3MoeExperts")]
)
@pytest.mark.filterwarnings("default:masks cover")
def test_experts_in_one_tensor_are_said_to_be_left_out(make, experts):
    model = made(make)
    with pytest.warns(UserWarning, match="masks cover") as said:
        masks = sl.find_masks(model, sparsity=0.5)
    covered = sum(mask.numel() for mask in masks.values())
    weights = sum(p.numel() for p in model.parameters() if p.dim() > 1)
    text = str(said[0].message)
    assert f"{covered:,} of {weights:,} weights ({covered / weights:.1%})" in text
    assert f"mlp.experts.gate_up_proj (a parameter of {experts}" in text
    assert covered < weights / 3
    experts = [n for n, p in model.named_parameters() if p.dim() == 3]
    assert len(experts) == 4
    assert set(experts) <= set(sl.coverage(model, masks).left_out)


@pytest.mark.parametrize("make", [gpt2, t5, lambda: llama(tie_word_embeddings=True)])
def test_a_tied_head_is_pruned_with_its_embedding_on_request_only(make):
    model = made(make)
    tied = model.get_input_embeddings().weight
    assert model.get_output_embeddings().weight is tied
    (name,) = [n for n, p in model.named_parameters() if p is tied]
    default, everything = (set(sl.find_masks(model, exclude=e)) for e in (None, ()))
    assert default == everything  # no other layer is taken for the classifier
    assert name not in everything
    masks = sl.find_masks(model, sparsity=0.5, exclude=(), include=[name])
    assert set(masks) == {*everything, name}
    assert_agree(model, twin_of(model, masks), masks, logits, rtol=1e-4, atol=1e-5)
    assert model.get_output_embeddings().weight is tied


def test_a_saved_model_is_loaded_dense_and_made_sparse_again(tmp_path):
    model = made(llama)
    masks = sl.find_masks(model, sparsity=0.8)
    sl.sparsify(model, masks)
    for name in masks:
        model.get_parameter(name).data.add_(1.0)  # nothing of it may be saved
    model.save_pretrained(tmp_path)
    loaded = transformers.LlamaForCausalLM.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(logits(loaded), logits(model))
    sl.sparsify(loaded)
    assert all(torch.equal(m, masks[n]) for n, m in sl.masks_of(loaded).items())
    torch.testing.assert_close(logits(loaded), logits(model))


def test_gradient_checkpointing_and_frozen_layers():
    model, other = made(llama), made(llama)
    masks = sl.find_masks(model, sparsity=0.8)
    for net in (model, other):
        sl.sparsify(net, masks)
        net.model.layers[0].requires_grad_(False)
        net.model.embed_tokens.requires_grad_(False)
    model.train().gradient_checkpointing_enable()
    for net in (model, other):
        logits(net).square().mean().backward()
    for (name, p), q in zip(model.named_parameters(), other.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None), name
        torch.testing.assert_close(p.grad, q.grad)
