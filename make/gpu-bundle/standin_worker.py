"""A stand-in for an inference worker: a real model's KV cache is saved, the worker is killed, and another one that loads it
must compute identical logits.

    python3 standin_worker.py KVTIER_BENCH

Needs PyTorch with a GPU and transformers; no weights: the model is made from a seed. The store is `kvtier-bench gpu-store`,
which opens the worker's memory by CUDA IPC.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile

LAYERS, HEADS, HEAD_ELEMENTS, TOKENS, BLOCKS = 8, 8, 64, 16, 64
PROMPT_TOKENS, VOCABULARY = 512, 1000
# Not the order they were written in, so that a block number cannot be mistaken for a place in the chain.
LOADED_AT = [(7 * number + 3) % BLOCKS for number in range(PROMPT_TOKENS // TOKENS)]


def paged_memory(torch):
    """KV memory of all layers in one allocation of whole 2 MiB: layer, K or V, block, token, head, element."""
    shape = (LAYERS, 2, BLOCKS, TOKENS, HEADS, HEAD_ELEMENTS)
    return torch.zeros(shape, dtype=torch.bfloat16, device="cuda")


def describe(memory):
    """What the store needs to open the memory: its handle, and where each layer is in it."""
    cuda = ctypes.CDLL("libcuda.so.1")
    base, size = ctypes.c_uint64(), ctypes.c_size_t()
    address = ctypes.c_uint64(memory.data_ptr())
    check(cuda.cuMemGetAddressRange_v2(ctypes.byref(base), ctypes.byref(size), address))
    handle = (ctypes.c_char * 64)()
    check(cuda.cuIpcGetMemHandle(ctypes.byref(handle), base))
    layer, plane, block, token, head, _ = (stride * 2 for stride in memory.stride())
    first = memory.data_ptr() - base.value
    return {
        "handles": [handle.raw.hex()],
        "offsets": [first + number * layer for number in range(LAYERS)],
        "planes": 2,
        "tokens": TOKENS,
        "heads": HEADS,
        "head_elements": HEAD_ELEMENTS,
        "element_bytes": 2,
        "block_count": BLOCKS,
        "block_stride": block,
        "plane_stride": plane,
        "token_stride": token,
        "head_stride": head,
    }


def check(result):
    if result != 0:
        sys.exit(f"the driver answered {result}")


def make_model(torch):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HEADS * HEAD_ELEMENTS,
        intermediate_size=1024,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
    )
    return LlamaForCausalLM(config).to(torch.bfloat16).cuda().eval()


def prompt(torch):
    return torch.arange(PROMPT_TOKENS, device="cuda").mul(37).remainder(VOCABULARY).unsqueeze(0)


def layers_of(cache):
    if hasattr(cache, "layers"):
        return [(layer.keys, layer.values) for layer in cache.layers]
    return list(zip(cache.key_cache, cache.value_cache))


def logits_after(torch, model, memory, numbers):
    """Logits of three more tokens, from what is in the blocks of these numbers."""
    from transformers import DynamicCache

    cache = DynamicCache()
    for layer in range(LAYERS):
        pages = memory[layer][:, numbers].reshape(2, 1, PROMPT_TOKENS, HEADS, HEAD_ELEMENTS)
        k, v = pages.transpose(2, 3).contiguous()
        cache.update(k, v, layer)
    seen = []
    token = torch.tensor([[5]], device="cuda")
    for _ in range(3):
        answer = model(input_ids=token, past_key_values=cache, use_cache=True)
        seen.append(answer.logits[:, -1].float().cpu())
        token = answer.logits[:, -1:].argmax(-1)
    return torch.cat(seen)


def ask(request):
    """Asks the store, through the process that started this one."""
    print(json.dumps(request), flush=True)
    answer = json.loads(sys.stdin.readline())
    if "error" in answer:
        sys.exit(f"the store answered: {answer['error']}")


def first_worker(folder):
    """Computes, saves, writes down what it would say next, and is killed."""
    import torch

    with torch.inference_mode():
        model, memory = make_model(torch), paged_memory(torch)
        cache = model(input_ids=prompt(torch), use_cache=True).past_key_values
        numbers = list(range(PROMPT_TOKENS // TOKENS))
        for layer, (k, v) in enumerate(layers_of(cache)):
            for plane, tensor in enumerate((k, v)):
                pages = tensor[0].transpose(0, 1).reshape(-1, TOKENS, HEADS, HEAD_ELEMENTS)
                memory[layer, plane, : len(numbers)] = pages
        torch.save(logits_after(torch, model, memory, numbers), os.path.join(folder, "logits"))
        torch.cuda.synchronize()
        ask(describe(memory))
        ask({"save": numbers})
        os.kill(os.getpid(), signal.SIGKILL)


def second_worker(folder):
    """Loads into other blocks of empty memory and must say the same."""
    import torch

    with torch.inference_mode():
        model, memory = make_model(torch), paged_memory(torch)
        torch.cuda.synchronize()
        ask(describe(memory))
        ask({"load": LOADED_AT})
        expected = torch.load(os.path.join(folder, "logits"))
        found = logits_after(torch, model, memory, LOADED_AT)
        empty = logits_after(torch, model, paged_memory(torch), LOADED_AT)
        if torch.equal(empty, expected):
            sys.exit("an empty cache gives the same logits: this check cannot fail")
        if not torch.equal(found, expected):
            sys.exit(f"the logits differ by up to {(found - expected).abs().max().item()}")


def run_worker(name, store, folder):
    """Runs a worker and carries its requests to the store; returns its exit status."""
    command = [sys.executable, os.path.abspath(__file__), name, folder]
    worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    for request in worker.stdout:
        store.stdin.write(request)
        store.stdin.flush()
        try:
            worker.stdin.write(store.stdout.readline())
            worker.stdin.flush()
        except BrokenPipeError:
            break
    return worker.wait()


def main(bench):
    store = subprocess.Popen([bench, "gpu-store"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with tempfile.TemporaryDirectory() as folder:
        first = run_worker("first", store, folder)
        if first != -signal.SIGKILL:
            sys.exit(f"the first worker ended with {first} and not by SIGKILL")
        second = run_worker("second", store, folder)
    store.stdin.close()
    store.wait()
    if second != 0:
        sys.exit(f"the second worker ended with {second}")
    print("the stand-in worker computed identical logits from the loaded KV cache")


if __name__ == "__main__":
    if sys.argv[1] == "first":
        first_worker(sys.argv[2])
    elif sys.argv[1] == "second":
        second_worker(sys.argv[2])
    else:
        main(sys.argv[1])
