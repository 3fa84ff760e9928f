"""A platform in memory: `MemorySource` and `MemorySink`, with faults on demand.

Both keep the whole adapter contract, so that the copy engine and the contract suite can be
tested without any platform. A sink's capabilities are what the test says they are, and it
refuses (`Rejected`) whatever they do not allow, as a strict platform would.
"""

from .memory_sink import EVERYTHING, MemorySink, MemoryWriter, capabilities
from .memory_source import ArtifactData, Bulk, Faults, FaultyStream, MemorySource, RunData, batches_of

__all__ = [
    "EVERYTHING",
    "ArtifactData",
    "Bulk",
    "Faults",
    "FaultyStream",
    "MemorySink",
    "MemorySource",
    "MemoryWriter",
    "RunData",
    "batches_of",
    "capabilities",
]
