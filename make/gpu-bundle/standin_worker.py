"""A stand-in for an inference worker: a real model's KV cache is saved, the worker is killed, and another one that loads it
must compute identical logits.

    python3 standin_worker.py KVTIER_BENCH                     the store is `kvtier-bench gpu-store`
    python3 standin_worker.py KVTIERD --daemon                 a daemon, through the Python package kvtier
    python3 standin_worker.py KVTIERD --daemon --simulated     the same without a GPU: PyTorch on the CPU

Needs PyTorch (with a GPU, unless it is simulated) and transformers; no weights: the model is made from a seed. The store
opens the worker's memory by CUDA IPC; a simulated GPU opens a file of the worker instead. With a daemon the first worker
saves durably, and the daemon is killed and started again, too: what the second worker loads has been on NVMe.

KVTIER_DRIVER_STAND_IN=FOLDER with --simulated: the daemon drives what make/driver-stand-in.sh has put there, not its simulated GPU.
"""

import ctypes
import json
import mmap
import os
import signal
import struct
import subprocess
import sys
import tempfile
import time

LAYERS, HEADS, HEAD_ELEMENTS, TOKENS, BLOCKS = 8, 8, 64, 16, 64
PROMPT_TOKENS, VOCABULARY = 512, 1000
# Not the order they were written in, so that a block number cannot be mistaken for a place in the chain.
LOADED_AT = [(7 * number + 3) % BLOCKS for number in range(PROMPT_TOKENS // TOKENS)]


SIMULATED = "--simulated" in sys.argv
DAEMON = "--daemon" in sys.argv
#: Where a stand-in for NVIDIA's driver lies, if the daemon is to use one.
DRIVER = os.environ.get("KVTIER_DRIVER_STAND_IN")
DEVICE = "cpu" if SIMULATED else "cuda"
#: How long anything of the daemon may take, in seconds.
PATIENCE = 60.0


def paged_memory(torch):
    """KV memory of all layers in one allocation of whole 2 MiB: layer, K or V, block, token, head, element."""
    shape = (LAYERS, 2, BLOCKS, TOKENS, HEADS, HEAD_ELEMENTS)
    if not SIMULATED:
        return torch.zeros(shape, dtype=torch.bfloat16, device=DEVICE)
    count = 2 * LAYERS * 2 * BLOCKS * TOKENS * HEADS * HEAD_ELEMENTS
    file = os.memfd_create("standin-kv")
    os.truncate(file, count)
    memory = torch.frombuffer(mmap.mmap(file, count), dtype=torch.bfloat16).reshape(shape)
    memory.standin_file = file
    return memory


def handle_of(memory):
    """The handle of the memory's allocation, and where in it the memory begins."""
    if SIMULATED:
        return struct.pack("<Ii8si", os.getpid(), memory.standin_file, b"KVTIERSF", -1).ljust(64, b"\0"), 0
    cuda = ctypes.CDLL("libcuda.so.1")
    base, size = ctypes.c_uint64(), ctypes.c_size_t()
    address = ctypes.c_uint64(memory.data_ptr())
    check(cuda.cuMemGetAddressRange_v2(ctypes.byref(base), ctypes.byref(size), address))
    handle = (ctypes.c_char * 64)()
    check(cuda.cuIpcGetMemHandle(ctypes.byref(handle), base))
    return handle.raw, memory.data_ptr() - base.value


def describe(memory):
    """What the store needs to open the memory: its handle, and where each layer is in it."""
    layer, plane, block, token, head, _ = (stride * 2 for stride in memory.stride())
    handle, first = handle_of(memory)
    return {
        "handles": [handle.hex()],
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
    return LlamaForCausalLM(config).to(torch.bfloat16).to(DEVICE).eval()


def prompt(torch):
    return torch.arange(PROMPT_TOKENS, device=DEVICE).mul(37).remainder(VOCABULARY).unsqueeze(0)


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
    token = torch.tensor([[5]], device=DEVICE)
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


def synchronize(torch):
    if not SIMULATED:
        torch.cuda.synchronize()


class Daemon:
    """kvtierd on a folder of its own."""

    def __init__(self, binary, folder):
        self.binary, self.data = binary, os.path.join(folder, "data")
        self.start()

    def start(self):
        listening = os.path.join(self.data, "LISTENING")
        if os.path.exists(listening):
            os.remove(listening)
        settings = {
            "listen.tcp": "127.0.0.1:0",
            "listen.http": "off",
            "host.bytes": "256MiB",
            "nvme.bytes": "512MiB",
            "hbm.workers": "true",
            "hbm.device": "simulated" if SIMULATED and not DRIVER else "auto",
        }
        command = [self.binary, "--create", "--data-directory", self.data]
        for name, value in settings.items():
            command += ["--set", f"{name}={value}"]
        self.log = open(os.path.join(self.data + ".log"), "ab")
        environment = {"LD_LIBRARY_PATH": DRIVER} if DRIVER else {}
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=self.log, env=environment)
        with open(os.path.join(os.path.dirname(self.data), "pid"), "w") as pid:
            pid.write(str(self.process.pid))
        deadline = time.monotonic() + PATIENCE
        while not os.path.exists(listening):
            if self.process.poll() is not None or time.monotonic() > deadline:
                sys.exit("kvtierd did not start:\n" + open(self.data + ".log").read())
            time.sleep(0.02)

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.log.close()


def lend(folder, memory):
    """Lends the memory to the daemon; it, the space, and the chain's keys."""
    import kvtier

    data = os.path.join(folder, "data")
    block_bytes = LAYERS * 2 * TOKENS * HEADS * HEAD_ELEMENTS * 2
    with kvtier.Client(f"unix://{data}/kvtierd.sock") as client:
        deadline = time.monotonic() + PATIENCE
        # A real GPU is opened in the background: the daemon's memory is pinned for it.
        while (tier := client.status()["tiers"][0])["state"] == "absent" and tier["detail"] == "still opening":
            if time.monotonic() > deadline:
                sys.exit("the daemon's GPU is still being opened")
            time.sleep(0.02)
        print(f"the daemon's GPU: {tier['detail']}", flush=True)
        described = kvtier.SpaceDescription(
            tenant="standin", model="standin", tokens_per_block=TOKENS, part_bytes=(block_bytes,)
        )
        space = client.open_space("standin", described)
    client = kvtier.LocalClient(os.path.join(data, "local.sock"), tenant="standin")
    told = describe(memory)
    handles = [bytes.fromhex(handle) for handle in told.pop("handles")]
    surfaces = [(0, offset) for offset in told.pop("offsets")]
    if not SIMULATED:
        import torch

        # Not by its place: this process may see fewer GPUs than the daemon.
        told["gpu"] = str(torch.cuda.get_device_properties(memory.device).uuid)
    lent = client.import_gpu_memory(handles, surfaces, **told)
    return lent, space, [f"prompt/{number}".encode() for number in range(PROMPT_TOKENS // TOKENS)]


def save(folder, memory, numbers):
    if not DAEMON:
        ask(describe(memory))
        ask({"save": numbers})
        return
    lent, space, keys = lend(folder, memory)
    outcomes = lent.save(space, keys, numbers, durability="durable")
    if not all(outcome.ok for outcome in outcomes):
        sys.exit(f"not saved: {outcomes}")


def load(folder, memory, numbers):
    if not DAEMON:
        ask(describe(memory))
        ask({"load": numbers})
        return
    lent, space, keys = lend(folder, memory)
    ends = [1, 4, LAYERS]
    begun = time.perf_counter()
    loading = lent.load(space, keys, numbers, layer_ends=ends)
    for number in range(len(ends)):
        if why := loading.wait(number):
            sys.exit(f"not loaded: {why}")
        print(f"layers below {ends[number]} after {(time.perf_counter() - begun) * 1e3:.1f} ms", flush=True)
    if len(loading) != len(numbers) or (why := loading.finish()):
        sys.exit(f"{len(loading)} blocks of {len(numbers)} were loaded: {loading.miss}")


def cpu_seconds(process):
    """CPU time of a process, of all its threads."""
    tasks = os.listdir(f"/proc/{process}/task")
    return sum(int(open(f"/proc/{process}/task/{task}/schedstat").read().split()[0]) for task in tasks) / 1e9


def measure(folder, memory, numbers):
    """What a call costs: loads of one block, which the daemon has in host memory by now, one after the other."""
    if not DAEMON:
        return
    lent, space, keys = lend(folder, memory)
    process, calls = int(open(os.path.join(folder, "pid")).read()), 500
    own, daemon, begun = time.process_time(), cpu_seconds(process), time.perf_counter()
    for _ in range(calls):
        if why := lent.load(space, keys[:1], numbers[:1], verify=False).finish():
            sys.exit(f"not loaded: {why}")
    own, daemon = time.process_time() - own, cpu_seconds(process) - daemon
    each = (time.perf_counter() - begun) / calls
    copied = ", which includes the simulated GPU's copying" if SIMULATED else ""
    print(f"a load of one block: {each * 1e6:.0f} us, CPU of the worker {own / calls * 1e6:.0f} us")
    print(f"CPU of the daemon {daemon / calls * 1e6:.0f} us{copied}", flush=True)


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
        synchronize(torch)
        save(folder, memory, numbers)
        os.kill(os.getpid(), signal.SIGKILL)


def second_worker(folder):
    """Loads into other blocks of empty memory and must say the same."""
    import torch

    with torch.inference_mode():
        model, memory = make_model(torch), paged_memory(torch)
        synchronize(torch)
        load(folder, memory, LOADED_AT)
        expected = torch.load(os.path.join(folder, "logits"))
        found = logits_after(torch, model, memory, LOADED_AT)
        empty = logits_after(torch, model, paged_memory(torch), LOADED_AT)
        if torch.equal(empty, expected):
            sys.exit("an empty cache gives the same logits: this check cannot fail")
        if not torch.equal(found, expected):
            sys.exit(f"the logits differ by up to {(found - expected).abs().max().item()}")
        measure(folder, memory, LOADED_AT)


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


def run_alone(name, folder):
    """Runs a worker that reaches the daemon by itself."""
    flags = ["--daemon"] + ["--simulated"] * SIMULATED
    return subprocess.run([sys.executable, os.path.abspath(__file__), name, folder, *flags]).returncode


def through_daemon(binary):
    # In /tmp, because paths of sockets are short.
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        daemon = Daemon(binary, folder)
        try:
            first = run_alone("first", folder)
            if first != -signal.SIGKILL:
                sys.exit(f"the first worker ended with {first} and not by SIGKILL")
            daemon.kill()
            daemon.start()
            second = run_alone("second", folder)
            if second != 0:
                sys.exit(f"the second worker ended with {second}")
        finally:
            daemon.kill()
    where = "a stand-in for the driver" if DRIVER else "a simulated GPU" if SIMULATED else "a GPU"
    print(f"through kvtierd on {where}, killed in between: the stand-in worker computed identical logits")


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
    elif DAEMON:
        through_daemon(sys.argv[1])
    else:
        main(sys.argv[1])
