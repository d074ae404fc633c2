"""Prints the partitions that librdkafka gives to the keys of standard input,
one on each line: the first argument is its partitioner. The library is the one
in the package confluent-kafka."""

import ctypes
import glob
import os
import sys

import confluent_kafka

packages = os.path.dirname(os.path.dirname(confluent_kafka.__file__))
[path] = glob.glob(os.path.join(packages, "confluent_kafka.libs", "librdkafka*"))
partition = getattr(ctypes.CDLL(path), "rd_kafka_msg_partitioner_" + sys.argv[1])
partition.restype = ctypes.c_int32
# Topic, key, its length, count of partitions, and two pointers for callers:
# these partitioners look at key and count alone.
partition.argtypes = [
    ctypes.c_void_p,
    ctypes.c_char_p,
    ctypes.c_size_t,
    ctypes.c_int32,
    ctypes.c_void_p,
    ctypes.c_void_p,
]

for line in sys.stdin.buffer:
    key = line.removesuffix(b"\n")
    row = [key]
    for count in (1, 3, 8, 12, 100):
        row.append(b"%d" % partition(None, key, len(key), count, None, None))
    sys.stdout.buffer.write(b"\t".join(row) + b"\n")
