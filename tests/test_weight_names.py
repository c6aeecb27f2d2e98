"""`is_weight` on the names that libraries and checkpoints use, each taken from its source."""

from types import SimpleNamespace
from typing import Any

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import jaxreg
from jaxreg._rules.paths import untied

L, E, H, D, F, V = 12, 8, 4, 64, 256, 1000  # layers, experts, heads, width, hidden width, vocabulary

NAMES: dict[str, list[tuple[str, tuple[int, ...], bool]]] = {
    # flax.linen: linear.py, attention.py, normalization.py, recurrent.py, activation.py; under nn.scan or nn.vmap
    "flax linen": [
        ("params/Dense_0/kernel", (D, F), True),
        ("params/Dense_0/bias", (L, F), False),
        ("params/Conv_0/kernel", (3, 3, 3, D), True),
        ("params/Embed_0/embedding", (V, D), True),
        ("params/MultiHeadDotProductAttention_0/query/kernel", (D, H, D // H), True),
        ("params/MultiHeadDotProductAttention_0/query/bias", (H, D // H), False),
        ("params/MultiHeadDotProductAttention_0/query_ln/scale", (L, D), False),
        ("params/LayerNorm_0/scale", (L, D), False),
        ("params/BatchNorm_0/bias", (L, D), False),
        ("params/OptimizedLSTMCell_0/hi/kernel", (D, D), True),
        ("params/WeightNorm_0/Dense_0/kernel/scale", (L, D), False),
        ("params/PReLU_0/negative_slope", (L, 1), False),
        ("batch_stats/BatchNorm_0/mean", (L, D), False),
        ("batch_stats/BatchNorm_0/var", (L, D), False),
        ("params/Dense_0/kernel", (F,), False),  # no matrix, whatever its name
    ],
    # flax.nnx: nn/linear.py, nn/lora.py, nn/normalization.py; checkpoints of its states keep `value` as a level
    "flax nnx": [
        ("layers/0/kernel", (D, F), True),
        ("layers/1/scale", (L, D), False),
        ("layers/linear/bias/value", (L, D), False),
        ("layers/norm/scale/value", (L, D), False),
        ("layers/linear/kernel/value", (L, D, F), True),
        ("q_proj/lora/lora_a", (D, 4), True),
        ("q_proj/lora/lora_b", (4, D), True),
        ("q_proj/lora/a", (D, 4), True),
        ("q_proj/lora/b", (4, D), True),
        ("params/LoRADense_0/b", (4, D), True),
        ("lora/q_proj/b/value", (4, D), True),
        ("q_proj_lora/b", (4, D), True),
        ("lora/linear/bias", (L, D), False),
        ("exploration/linear/b", (L, D), False),
        ("attention/key_ln/scale", (L, D), False),
        ("encoder/wn/layer_instance/kernel", (D, F), True),
    ],
    # haiku/_src: basic.py, bias.py, embed.py, layer_norm.py, batch_norm.py, recurrent.py, nets/vqvae.py, layer_stack.py
    "haiku": [
        ("mlp/~/linear_0/w", (D, F), True),
        ("__layer_stack_no_per_layer/linear/b", (L, F), False),
        ("__layer_stack_no_per_layer/layer_norm/scale", (L, D), False),
        ("__layer_stack_no_per_layer/layer_norm/offset", (L, D), False),
        ("batch_norm/offset", (1, 1, D), False),
        ("bias/b", (10, D), False),
        ("embed/embeddings", (V, D), True),
        ("gru/w_i", (D, 3 * D), True),
        ("gru/w_h", (D, 3 * D), True),
        ("vector_quantizer/embeddings", (D, 512), True),
    ],
    # equinox/nn: _linear.py, _conv.py (its bias has axes), _normalisation.py, _rnn.py, _weight_norm.py, _batch_norm.py
    "equinox": [
        ("mlp/layers/0/weight", (F, D), True),
        ("conv/weight", (D, 3, 3, 3), True),
        ("conv/bias", (D, 1, 1), False),
        ("attention/query_proj/weight", (D, D), True),
        ("layers/norm1/weight", (L, D), False),
        ("image_norm/weight", (3, 32, 32), False),
        ("norms/0/weight", (L, D), False),
        ("norm/0/weight", (L, D), False),
        ("gru/weight_ih", (3 * D, D), True),
        ("gru/bias_n", (L, D), False),
        ("wn/layer/weight", (F, D), True),
        ("weight_norm/layer/weight", (F, D), True),
        ("wn/g", (F, 1), False),
        ("bn/batch_state_index/init/0", (L, D), False),
    ],
    # AI-Hypercomputer/maxtext: layers/, utils/ckpt_conversion/utils/param_mapping.py
    "maxtext": [
        ("params/token_embedder/embedding", (V, D), True),
        ("params/decoder/logits_dense/kernel", (D, V), True),
        ("params/decoder/decoder_norm/scale", (L, D), False),
        ("params/decoder/layers/pre_self_attention_layer_norm/scale", (D, L), False),
        ("params/decoder/layers/pre_ffw_norm_global/scale", (D, L), False),
        ("params/decoder/layers/self_attention/query_norm/scale", (L, D), False),
        ("params/decoder/layers/self_attention/query/kernel", (D, L, H, D // H), True),
        ("params/decoder/layers/self_attention/wkv_b/kernel", (D, L, H, D), True),
        ("params/decoder/layers/mlp/wi_0/kernel", (D, L, F), True),
        ("params/decoder/layers/moe_block/wi_0", (E, L, D, F), True),
        ("params/decoder/layers/moe_block/wo", (E, L, F, D), True),
        ("params/decoder/layers/moe_block/gate/kernel", (D, L, E), True),
        ("params/decoder/moe_layers/DeepSeekMoeBlock_0/MoeBlock_0/gate/bias", (L, E), False),
        ("params/vision_encoder/Gemma3VisionEncoderLayer_0/pos_embedding", (1, 4096, D), True),
        ("params/vision_encoder/VisionEmbedder_0/mm_input_projection/w", (D, D), True),
        ("params-decoder-layers-mlp-wi_0-kernel", (D, L, F), True),  # the flat keys of its conversion
        ("params-decoder-layers-pre_ffw_norm-scale", (L, D), False),
    ],
    # google-deepmind/penzai: nn/linear_and_affine.py, nn/standardization.py, as labelled by `pz.unbind_params`
    "penzai": [
        ("transformer/block_0/attention/query.weights", (D, H, D // H), True),
        ("transformer/block/pre_attention_norm/scale.weights", (L, D), False),
        ("transformer/block/pre_attention_norm/shift.bias", (L, D), False),
        ("embedder.embeddings", (V, D), True),
    ],
    # TransformerLensOrg/TransformerLens: components/abstract_attention.py, mlps/, layer_norm.py, embed.py, unembed.py
    "transformer lens": [
        ("blocks/0/attn/W_Q", (H, D, D // H), True),
        ("blocks/0/attn/b_Q", (H, D // H), False),
        ("blocks/0/attn/b_O", (L, D), False),
        ("blocks/0/mlp/W_in", (D, F), True),
        ("blocks/0/mlp/b_in", (L, F), False),
        ("blocks/ln1/w", (L, D), False),
        ("blocks/ln1/b", (L, D), False),
        ("ln_final/w", (1, D), False),
        ("embed/W_E", (V, D), True),
        ("pos_embed/W_pos", (512, D), True),
        ("unembed/b_U", (1, V), False),
        ("blocks.0.attn.W_K", (H, D, D // H), True),  # flat, as PyTorch keeps them
        ("blocks.0.attn.b_K", (H, D // H), False),
        ("blocks.0.attn.rotary_sin", (512, 16), False),
    ],
    # google-research/t5x: examples/t5/layers.py, examples/scalable_t5/network.py
    "t5x": [
        ("encoder/layers/pre_attention_layer_norm/scale", (D, L), False),
        ("encoder/relpos_bias/rel_embedding", (H, 32), True),  # an embedding of distances, one row a head
        ("encoder/layers/relative_posemb/rel_embedding", (H, L, 32), True),
        ("encoder/layers/attention/query/kernel", (D, L, D), True),
    ],
    # google-research/big_vision: models/vit.py, models/ppp/gemma.py, models/proj/image_text/two_towers.py
    "big_vision": [
        ("img/embedding/kernel", (16, 16, 3, D), True),
        ("img/pos_embedding", (1, 196, D), True),
        ("img/cls", (1, 1, D), True),  # the embedding of one token, as its row of a table would be
        ("img/MAPHead_0/probe", (1, 1, D), True),
        ("img/Transformer/encoderblock/LayerNorm_0/scale", (L, D), False),
        ("img/Transformer/encoderblock/MultiHeadDotProductAttention_0/out/bias", (L, D), False),
        ("img/Transformer/encoder_norm/bias", (1, D), False),
        ("llm/layers/mlp/gating_einsum", (L, 2, D, F), True),
        ("llm/layers/mlp/linear", (L, F, D), True),
        ("llm/layers/attn/q_einsum/w", (L, H, D, D // H), True),
        ("llm/layers/pre_ffw_norm/scale", (L, D), False),
    ],
    # google-deepmind/gemma: gm/nn/_modules.py, gm/nn/gemma3n/_modules.py
    "gemma": [
        ("layer_0/attn/kv_einsum/w", (2, 1, D, D), True),
        ("layer_0/attn/_query_norm/scale", (L, D), False),
        ("embedder/input_embedding", (V, D), True),
        ("embedder/per_layer_input_embedding", (V, L, D), True),
        ("embedder/mm_soft_embedding_norm/scale", (1, D), False),
        ("layers/altup/correct_output_scale", (L, D), False),
        ("layers/altup/prediction_coefs", (4, 4, 4), True),
    ],
    # huggingface/transformers: modeling_{llama,gpt2,bert,bart,t5,vit,mamba,swin,dinov2,beit,gpt_oss,deepseek_v3}.py
    "transformers": [
        ("model/embed_tokens/weight", (V, D), True),
        ("model/norm/weight", (1, D), False),
        ("model/layers/input_layernorm/weight", (L, D), False),
        ("model/layers/post_attention_layernorm/weight", (L, D), False),
        ("model/layers/self_attn/q_norm/weight", (L, D), False),
        ("model/layers/self_attn/q_proj/weight", (L, D, D), True),
        ("model/layers/self_attn/sinks", (L, H), False),
        ("model/layers/self_attn/kv_a_proj_with_mqa/weight", (L, D, D), True),
        ("model/layers/mlp/experts/gate_up_proj", (E, D, 2 * F), True),
        ("model/layers/mlp/experts/gate_up_proj_bias", (E, 2 * F), False),
        ("model/layers/mlp/gate/e_score_correction_bias", (L, E), False),
        ("model.layers.0.self_attn.q_proj.weight", (D, D), True),
        ("model.layers.input_layernorm.weight", (L, D), False),
        ("transformer/h/ln_1/weight", (L, D), False),
        ("transformer/ln_f/weight", (1, D), False),
        ("transformer/h/attn/c_attn/weight", (L, D, 3 * D), True),
        ("transformer/h/attn/c_attn/bias", (L, 3 * D), False),
        ("transformer/wpe/embedding", (1024, D), True),
        ("bert/embeddings/LayerNorm/weight", (1, D), False),
        ("bert/embeddings/position_embeddings/weight", (512, D), True),
        ("bert/encoder/layer/output/LayerNorm/weight", (L, D), False),
        ("model/encoder/layernorm_embedding/weight", (1, D), False),
        ("model/encoder/layers/self_attn_layer_norm/weight", (L, D), False),
        ("encoder/block/0/layer/0/SelfAttention/relative_attention_bias/weight", (32, H), True),  # a table, as in t5x
        ("encoder/block/layer/0/layer_norm/weight", (L, D), False),
        ("encoder/final_layer_norm/weight", (1, D), False),
        ("vit/embeddings/cls_token", (1, 1, D), True),
        ("vit/layernorm_before/weight", (L, D), False),
        ("backbone/layers/mixer/A_log", (F, 16), False),
        ("backbone/layers/mixer/D", (L, F), False),
        ("backbone/layers/mixer/dt_bias", (L, H), False),
        ("backbone/layers/mixer/dt_proj/weight", (F, 4), True),
        ("backbone/layers/mixer/conv1d/weight", (F, 1, 4), True),
        ("swin/self/relative_position_bias_table", (169, H), False),  # a bias of logits by its name
        ("swinv2/self/logit_scale", (H, 1, 1), False),
        ("dinov2/layer/layer_scale1/lambda1", (L, D), False),
        ("beit/layer/lambda_1", (L, D), False),
        ("clip/logit_scale", (1, 1), False),
    ],
    # torch.nn: modules/{rnn,activation,batchnorm}.py, utils/weight_norm.py, utils/parametrizations.py
    "torch": [
        ("lstm/weight_ih_l0", (4 * D, D), True),
        ("lstm/bias_ih_l0", (L, 4 * D), False),
        ("attn/in_proj_weight", (3 * D, D), True),
        ("attn/in_proj_bias", (L, 3 * D), False),
        ("attn/bias_k", (1, 1, D), False),
        ("bn1/running_mean", (L, D), False),
        ("bn1/running_var", (L, D), False),
        ("conv/weight_g", (D, 1, 1), False),
        ("conv/weight_v", (D, 3, 3), True),
        ("conv/parametrizations/weight/original0", (D, 1, 1), False),
        ("conv/parametrizations/weight/original1", (D, 3, 3), True),
    ],
    # pytorch/vision: models/resnet.py, ops/misc.py (Conv2dNormActivation); rwightman/timm: layers/, models/
    "torchvision and timm": [
        ("layer1/0/conv1/weight", (D, D, 3, 3), True),
        ("layer1/bn1/weight", (L, D), False),
        ("layer1/0/downsample/0/weight", (F, D, 1, 1), True),
        ("stem/Conv2dNormActivation_0/0/weight", (D, 3, 3, 3), True),
        ("blocks/ls1/gamma", (L, D), False),
        ("blocks/norm1/weight", (L, D), False),
        ("blocks/layer_scale_1", (L, D), False),
        ("stages/mlp/grn/gamma", (1, 1, 1, D), False),
        ("blocks/gamma_1", (L, D), False),
        ("pos_embed", (1, 197, D), True),
        ("cls_token", (1, 1, D), True),
        ("reg_token", (1, 4, D), True),
    ],
    # keras/src/layers: core/, normalization/, rnn/, activations/prelu.py, and their quantized kernels
    "keras": [
        ("dense/kernel", (D, F), True),
        ("dense/bias", (L, F), False),
        ("dense/kernel_scale", (1, F), False),
        ("dense/lora_kernel_a", (D, 4), True),
        ("dense/lora_kernel_b", (4, D), True),
        ("embedding/embeddings", (V, D), True),
        ("lstm/lstm_cell/recurrent_kernel", (D, 4 * D), True),
        ("separable_conv2d/depthwise_kernel", (3, 3, 8, 1), True),
        ("batch_normalization_1/gamma", (L, D), False),
        ("batch_normalization_1/beta", (L, D), False),
        ("batch_normalization_1/moving_mean", (L, D), False),
        ("batch_normalization_1/moving_variance", (L, D), False),
        ("normalization/variance", (1, D), False),
        ("spectral_normalization/vector_u", (1, D), False),
        ("p_re_lu/alpha", (32, 32, D), False),
    ],
    # NVIDIA/TransformerEngine: jax/flax/module.py, pytorch/module/layernorm_{linear,mlp}.py; NVIDIA/Megatron-LM
    "transformer engine": [
        ("LayerNormMLP_0/wi_kernel", (D, 2, F), True),
        ("LayerNormMLP_0/ln_bias", (L, D), False),
        ("LayerNormMLP_0/scale", (L, D), False),
        ("LayerNormDenseGeneral_0/kernel", (D, F), True),
        ("layers/linear_qkv/layer_norm_weight", (L, D), False),
        ("layers/linear_qkv/weight", (L, 3 * D, D), True),
        ("layers/layernorm_mlp/layer_norm_weight", (L, D), False),
        ("layers/layernorm_mlp/fc1_weight", (L, F, D), True),
        ("layers/layernorm_qkv/weight", (L, 3 * D, D), True),
    ],
    # karpathy/llama2.c model.py and run.c; jaymody/picoGPT; meta-llama/llama; open_clip; facebookresearch/DiT
    "hand-written": [
        ("rms_att_weight", (L, D), False),
        ("rms_final_weight", (1, D), False),
        ("wq", (L, D, D), True),
        ("token_embedding_table", (V, D), True),
        ("blocks/ln_1/g", (L, D), False),
        ("blocks/ln_1/b", (L, D), False),
        ("blocks/mlp/c_fc/w", (L, D, F), True),
        ("layers/attention_norm", (L, D), False),
        ("layers/attention_norm/weight", (L, D), False),
        ("layers/layer_norm_mlp/weight", (L, D), False),
        ("visual/ln_pre/weight", (1, D), False),
        ("final_ln/weight", (1, D), False),
        ("final_layer/adaLN_modulation/1/weight", (2 * D, D), True),
        ("ssm/B", (D, D), True),  # the matrix of a state-space model
        ("layers/0/0", (D, F), True),
        ("layers/0/b", (L, F), False),
        ("layers/w1", (D, F), True),
        ("layers/b1", (L, F), False),
        ("norms/0", (L, D), False),
        ("0", (D, F), True),
        ("", (D, F), True),
    ],
    # names that only sound like norms, scales and biases, or stand inside modules that do
    "not to be lost": [
        ("ConvNorm_0/Conv_0/kernel", (3, 3, D, D), True),
        ("BatchNorm_0/Dense_0/kernel", (D, D), True),
        ("ConvBNAct/conv/weight", (D, D, 3, 3), True),
        ("ConvBNAct/weight", (D, D, 3, 3), True),
        ("LinearNormActivation/0/weight", (F, D), True),
        ("NormalHead/kernel", (D, D), True),
        ("NormalHead/weight", (D, D), True),
        ("weight_norm/kernel", (D, D), True),
        ("WeightNorm_0/weight", (D, D), True),
        ("spectral_norm/w", (D, D), True),
        ("spectral_norm/0/weight", (D, D), True),
        ("conv_spectral_norm/weight", (D, D), True),
        ("spectral_normalization/weight", (D, D), True),
        ("pre_norm/linear/weight", (D, D), True),
        ("pre_norm/layers/1/weight", (D, D), True),
        ("pre_norm/weight", (L, D), False),  # the name of a norm, whatever it is
        ("lnet/kernel", (D, D), True),
        ("lnet/w", (D, D), True),
        ("scale_net/kernel", (D, D), True),
        ("scale_net/weight", (D, D), True),
        ("bias_net/kernel", (D, D), True),
        ("bias_net/w", (D, D), True),
        ("gamma_mlp/Dense_0/kernel", (D, D), True),
        ("beta/linear/weight", (D, D), True),
        ("norm_proj/kernel", (D, D), True),
        ("norm_proj/weight", (D, D), True),
        ("norm1/linear/weight", (6 * D, D), True),
        ("basis/weights", (D, D), True),
    ],
}


@pytest.mark.parametrize("source", NAMES)
def test_names_of(source: str) -> None:
    wrong = [
        (path, shape)
        for path, shape, expected in NAMES[source]
        if jaxreg.is_weight(path, SimpleNamespace(shape=shape)) != expected
    ]
    assert wrong == []


class _Linen(nn.Module):
    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = nn.LayerNorm()(nn.Embed(5, 8)(tokens))
        x = nn.MultiHeadDotProductAttention(2, normalize_qk=True)(x, x)
        x = nn.BatchNorm(True)(nn.GroupNorm(2)(nn.RMSNorm()(nn.WeightNorm(nn.Dense(8))(x))))
        return nn.RNN(nn.GRUCell(4))(nn.PReLU()(nn.Conv(8, (2,))(x)))


class _Nnx(nnx.Module):
    def __init__(self, key: jax.Array):
        rngs = nnx.Rngs(key)
        self.embed, self.ln, self.bn = (
            nnx.Embed(5, 8, rngs=rngs),
            nnx.LayerNorm(8, rngs=rngs),
            nnx.BatchNorm(8, rngs=rngs),
        )
        self.attention = nnx.MultiHeadAttention(2, 8, normalize_qk=True, rngs=rngs)
        self.layers = nnx.List([nnx.RMSNorm(8, rngs=rngs), nnx.LoRALinear(8, 8, lora_rank=2, rngs=rngs)])
        self.conv, self.act = nnx.Conv(1, 2, (3,), rngs=rngs), nnx.PReLU()


def _haiku(tokens: jax.Array) -> jax.Array:
    x = hk.LayerNorm(-1, True, True)(hk.Embed(5, 8)(tokens))
    x = hk.BatchNorm(True, True, 0.9)(hk.GroupNorm(2)(hk.RMSNorm(-1)(x)), True)
    x = hk.MultiHeadAttention(2, 4, w_init=hk.initializers.Constant(1.0))(x, x, x)
    x = hk.Bias()(hk.Conv1D(8, 2)(hk.nets.MLP([8, 8])(x)))
    return hk.GRU(8)(x[:, 0], jnp.zeros((2, 8)))[0]


class _Equinox(eqx.Module):
    attention: eqx.Module
    norm: eqx.Module
    mlp: eqx.Module
    gru: eqx.Module
    wn: eqx.Module
    act: eqx.Module
    bn: eqx.Module
    conv: eqx.Module
    embed: eqx.Module

    def __init__(self, key: jax.Array):
        self.attention, self.norm = eqx.nn.MultiheadAttention(2, 8, key=key), eqx.nn.LayerNorm(8)
        self.mlp, self.gru = eqx.nn.MLP(2, 2, 4, 1, key=key), eqx.nn.GRUCell(2, 2, key=key)
        self.wn, self.act = eqx.nn.WeightNorm(eqx.nn.Linear(2, 3, key=key)), eqx.nn.PReLU()
        self.bn, self.conv = eqx.nn.BatchNorm(3, "batch", mode="batch"), eqx.nn.Conv2d(2, 3, 2, key=key)
        self.embed = eqx.nn.Embedding(3, 2, key=key)


TOKENS = jnp.ones((2, 3), int)
MODELS: dict[str, Any] = {
    "linen": (lambda key: jax.eval_shape(_Linen().init, key, TOKENS)["params"], ("kernel", "embedding")),
    "nnx": (lambda key: nnx.state(_Nnx(key), nnx.Param), ("kernel", "embedding", "lora_a", "lora_b")),
    "haiku": (
        lambda key: jax.eval_shape(hk.transform_with_state(_haiku).init, key, TOKENS)[0],
        ("w", "w_i", "w_h", "embeddings"),
    ),
    "equinox": (lambda key: eqx.filter(_Equinox(key), eqx.is_inexact_array), ("weight", "weight_ih", "weight_hh")),
}


@pytest.mark.parametrize("library", MODELS)
def test_a_stack_of_models_has_the_weights_of_one(library: str) -> None:
    make, weights = MODELS[library]
    one = untied(make(jax.random.key(0)))
    # the oracle: what these libraries call a weight, where it is a matrix before it is stacked
    expected = [path for path, leaf in one if path.split("/")[-1] in weights and len(leaf.shape) >= 2]
    assert len(expected) >= 8
    assert [path for path, leaf in one if jaxreg.is_weight(path, leaf)] == expected
    stacked = [(path, SimpleNamespace(shape=(3, *leaf.shape))) for path, leaf in one]
    assert [path for path, leaf in stacked if jaxreg.is_weight(path, leaf)] == expected
