"""One lane of a Mooncake store: speaks lines with kvtier-bench and does all work on payloads itself.

Payloads of puts stand in a file that both sides map; gets arrive in memory of this process and are read once here. The
calls are those of the binding that copy nothing: batch_put_from and batch_get_into on registered buffers.
"""

import json
import os
import sys
import time
import zlib

import numpy
from mooncake.store import MooncakeDistributedStore, ReplicateConfig

# Whatever the libraries print does not belong to the conversation.
ANSWERS = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)


class Lane:
    def __init__(self, wanted):
        self.store = MooncakeDistributedStore()
        code = self.store.setup(
            "127.0.0.1",
            f"http://127.0.0.1:{wanted['metadata']}/metadata",
            wanted["segment_bytes"],
            64 << 20,
            "tcp",
            "",
            f"127.0.0.1:{wanted['rpc']}",
        )
        if code != 0:
            raise RuntimeError(f"setup answered {code}")
        self.config = ReplicateConfig()
        if wanted["own"]:
            self.config.preferred_segment = self.store.get_hostname()
        self.source = self.target = None
        if wanted.get("source"):
            self.source = self.registered(numpy.memmap(wanted["source"], dtype=numpy.uint8, mode="r+"))
            self.target = self.registered(numpy.zeros(wanted["target_bytes"], dtype=numpy.uint8))

    def registered(self, memory):
        code = self.store.register_buffer(memory.ctypes.data, memory.nbytes)
        if code != 0:
            raise RuntimeError(f"register_buffer answered {code}")
        return memory

    def put(self, blocks):
        """key:offset:length each; how many are stored."""
        keys, offsets, lengths = zip(*(block.split(":") for block in blocks))
        base = self.source.ctypes.data
        lengths = [int(length) for length in lengths]
        places = [base + int(offset) for offset in offsets]
        codes = self.store.batch_put_from(list(keys), places, lengths, self.config)
        failed = [code for code in codes if code != 0]
        if failed:
            raise RuntimeError(f"{len(failed)} of {len(codes)} puts answered {failed[0]}")
        return [len(codes)]

    def get(self, how, blocks):
        """key:length each; what every block's bytes sum to, or - for one that is not there."""
        keys, lengths = zip(*(block.split(":") for block in blocks))
        lengths = [int(length) for length in lengths]
        ends = numpy.cumsum(lengths).tolist()
        base = self.target.ctypes.data
        places = [base + end - length for end, length in zip(ends, lengths)]
        found = self.store.batch_get_into(list(keys), places, lengths)
        answers = []
        for got, end, length in zip(found, ends, lengths):
            block = self.target[end - length : end]
            if got != length:
                answers.append("-")
            elif how == "crc":
                answers.append(zlib.crc32(block))
            else:
                # As fast as memory is read; zlib's CRC-32 is not.
                answers.append(int(block.view(numpy.uint64).sum(dtype=numpy.uint64)) & 0xFFFFFFFF)
        return answers

    def answer(self, words):
        match words[0]:
            case "put":
                return self.put(words[1:])
            case "get":
                return self.get(words[1], words[2:])
            case "exist":
                return [self.store.is_exist(key) for key in words[1:]]
            case "forget":
                return [self.store.remove(key, True) for key in words[1:]]
            case "nothing":
                return []
        raise RuntimeError(f"{words[0]} is no command")


def main():
    lane = Lane(json.loads(sys.stdin.readline()))
    print("ready", file=ANSWERS)
    for line in sys.stdin:
        begun = time.perf_counter_ns()
        try:
            answers = lane.answer(line.split())
        except Exception as error:
            print("failed", " ".join(str(error).split()), file=ANSWERS)
            continue
        print("ok", time.perf_counter_ns() - begun, *answers, file=ANSWERS)
    lane.store.close()


main()
