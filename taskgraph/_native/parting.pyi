from collections.abc import Sequence

def limit(
    descriptors: Sequence[int], is_gone: bool, grace_s: int, status: int, files: Sequence[bytes]
) -> None: ...
