"""The seccomp filter of a stage's programs, as a classic BPF program for x86_64 and aarch64.

It denies what no compiler needs and what has broken sandboxes before: other namespaces and mounts, tracing, kernel
keys, BPF, io_uring, modules, clocks. The kernel checks permissions as well; the filter also closes the bugs behind
those checks. `personality` stays allowed, because programs are started with `setarch --addr-no-randomize`.

Numbers and layouts are those of the kernel's headers: linux/seccomp.h, linux/bpf_common.h, linux/audit.h, asm/unistd.h.
"""

from __future__ import annotations

import errno
import os
import platform
import struct
from collections.abc import Iterator
from dataclasses import dataclass

_LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS: a 32-bit word of `struct seccomp_data` at offset k
_JUMP_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_JUMP_GREATER = 0x25  # BPF_JMP | BPF_JGT | BPF_K
_JUMP_ANY_BIT = 0x45  # BPF_JMP | BPF_JSET | BPF_K
_RETURN = 0x06  # BPF_RET | BPF_K

_ALLOW = 0x7FFF0000
_KILL_PROCESS = 0x80000000
_ERRNO = 0x00050000  # the lowest 16 bits are the errno

# Offsets in `struct seccomp_data`. Both machines are little-endian: the low word of an argument comes first.
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16

# A later kernel has calls that this filter does not know. Libraries fall back if a new call is missing.
_LAST_KNOWN_CALL = 466  # removexattrat, Linux 6.13
_X32_BIT = 0x40000000  # x86_64 only: calls with 32-bit pointers, which have numbers of their own

# sched.h: CLONE_NEWTIME, NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET.
_NEW_NAMESPACE = 0x80 | 0x20000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
# clone reads CLONE_NEWTIME's bit as part of the exit signal.
_CLONE_NEW_NAMESPACE = _NEW_NAMESPACE & ~0x80
_TERMINAL_INJECTION = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX
_SUPERVISOR = 1  # its process id in the sandbox
# AF_UNIX, AF_INET, AF_INET6, AF_NETLINK. A network namespace does not confine AF_VSOCK, and AF_ALG had many bugs.
_SOCKET_FAMILIES = (1, 2, 10, 16)


@dataclass(frozen=True)
class Machine:
    """An architecture: its value in `seccomp_data.arch`, and its system calls by name."""

    audit_value: int
    calls: dict[str, int]


# Denied always: name → number on x86_64, number on aarch64. None: that architecture lacks the call.
_DENIED: dict[str, tuple[int, int | None]] = {
    # Mounts and namespaces
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51),
    "move_mount": (429, 429), "open_tree": (428, 428), "fsopen": (430, 430), "fsconfig": (431, 431),
    "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442), "setns": (308, 268),
    # Other processes
    "ptrace": (101, 117), "pidfd_getfd": (438, 438), "process_madvise": (440, 440), "kcmp": (312, 272),
    # Large parts of the kernel that no compiler uses
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "fanotify_init": (300, 262),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    # Kernel keys are not part of any namespace that the sandbox has of its own.
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    # Files by inode, past the mount view
    "open_by_handle_at": (304, 265), "name_to_handle_at": (303, 264),
    # The machine
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "init_module": (175, 105), "finit_module": (313, 273),
    "delete_module": (176, 106), "create_module": (174, None), "query_module": (178, None),
    "get_kernel_syms": (177, None), "reboot": (169, 142), "swapon": (167, 224), "swapoff": (168, 225),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "clock_adjtime": (305, 266), "adjtimex": (159, 171),
    "acct": (163, 89), "quotactl": (179, 60), "quotactl_fd": (443, 443), "sethostname": (170, 161),
    "setdomainname": (171, 162), "syslog": (103, 116), "vhangup": (153, 58),
    # Obsolete
    "iopl": (172, None), "ioperm": (173, None), "modify_ldt": (154, None), "lookup_dcookie": (212, 18),
    "nfsservctl": (180, 42), "uselib": (134, None), "_sysctl": (156, None), "sysfs": (139, None),
}  # fmt: skip
# Denied unless the programs have a PID namespace of their own: Open MPI's ranks copy messages with them.
_PROCESS_MEMORY = {"process_vm_readv": (310, 270), "process_vm_writev": (311, 271)}
# Denied for process 1, the supervisor: programs of its user could take its CPU time, and it would not end them.
_SCHEDULING = {
    "sched_setparam": (142, 118), "sched_setscheduler": (144, 119), "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274),
}  # fmt: skip
# The same by process, group or user: call → the value of its first argument that means one process.
_PRIORITIES = {"setpriority": 0, "ioprio_set": 1}  # PRIO_PROCESS, IOPRIO_WHO_PROCESS
# Denied with some arguments.
_BY_ARGUMENT = _SCHEDULING | {
    "setpriority": (141, 140), "ioprio_set": (251, 30),
    "clone": (56, 220), "clone3": (435, 435), "unshare": (272, 97), "ioctl": (16, 29), "prlimit64": (302, 261),
    "socket": (41, 198),
}  # fmt: skip


def machine(name: str | None = None) -> Machine | None:
    """The machine of this name, by default the one that this process runs on; None if there is no filter for it."""
    name = name or platform.machine()
    audit_values = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
    if name not in audit_values:
        return None
    column = list(audit_values).index(name)
    calls = {}
    for call, numbers in (_DENIED | _PROCESS_MEMORY | _BY_ARGUMENT).items():
        number = numbers[column]
        if number is not None:
            calls[call] = number
    return Machine(audit_values[name], calls)


# What bubblewrap itself calls to make a sandbox: the filter of a worker's container must allow these.
NEEDED_BY_BUBBLEWRAP = frozenset({"clone", "unshare", "mount", "umount2", "pivot_root", "sethostname"})


def program(target: Machine, *, deny_process_memory: bool = False, allowed: frozenset[str] = frozenset()) -> bytes:
    """The filter as an array of `struct sock_filter`, which bubblewrap's `--seccomp` and prctl(2) read.

    Args:
        deny_process_memory: deny calls that read and write the memory of other processes.
        allowed: calls that this filter would deny.
    """
    return b"".join(struct.pack("<HBBI", *line) for line in _lines(target, denied_calls(deny_process_memory) - allowed))


def denied_calls(deny_process_memory: bool = False) -> frozenset[str]:
    """The calls that the filter denies, always or with some arguments."""
    names = _DENIED.keys() | _BY_ARGUMENT.keys()
    if deny_process_memory:
        names |= _PROCESS_MEMORY.keys()
    return frozenset(names)


def _lines(target: Machine, denied: frozenset[str]) -> Iterator[tuple[int, int, int, int]]:
    """Yield (operation, lines to skip if true, lines to skip if false, operand)."""
    # A program of another architecture would make calls with other numbers.
    yield (_LOAD, 0, 0, _ARCHITECTURE)
    yield (_JUMP_EQUAL, 1, 0, target.audit_value)
    yield (_RETURN, 0, 0, _KILL_PROCESS)
    yield (_LOAD, 0, 0, _NUMBER)
    # Also true for every call of x32, which has the bit 0x40000000.
    yield (_JUMP_GREATER, 0, 1, _LAST_KNOWN_CALL)
    yield (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)

    calls = target.calls
    # The flags of clone3 are in memory, where no filter can read them. The C library then calls clone.
    yield (_JUMP_EQUAL, 0, 1, calls["clone3"])
    yield (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)
    for name in sorted(denied - _BY_ARGUMENT.keys()):
        if name in calls:
            yield (_JUMP_EQUAL, 0, 1, calls[name])
            yield (_RETURN, 0, 0, _ERRNO | errno.EPERM)

    # Each of these blocks loads an argument, so it ends with a return: the number is no longer loaded.
    if "clone" in denied:
        yield from _block(calls["clone"], 0, _deny_any_bit(_CLONE_NEW_NAMESPACE))
    if "unshare" in denied:
        yield from _block(calls["unshare"], 0, _deny_any_bit(_NEW_NAMESPACE))
    # The kernel reads a command of 32 bits.
    yield from _block(calls["ioctl"], 1, _deny_values(_TERMINAL_INJECTION))
    # Limits of other processes: the supervisor must not get a limit of CPU time.
    yield from _block(calls["prlimit64"], 0, _allow_values((0,), errno.EPERM))
    for name in _SCHEDULING:
        yield from _block(calls[name], 0, _deny_values((_SUPERVISOR,)))
    for name, one_process in _PRIORITIES.items():
        yield from _block(calls[name], 0, _deny_other_than(one_process, _SUPERVISOR))
    yield from _block(calls["socket"], 0, _allow_values(_SOCKET_FAMILIES, errno.EAFNOSUPPORT))
    yield (_RETURN, 0, 0, _ALLOW)


_Line = tuple[int, int, int, int]


def _block(number: int, argument: int, body: list[_Line]) -> Iterator[_Line]:
    """Run `body` on the low word of an argument if the call has this number."""
    yield (_JUMP_EQUAL, 0, 1 + len(body), number)
    yield (_LOAD, 0, 0, _ARGUMENTS + 8 * argument)
    yield from body


def _deny_any_bit(mask: int) -> list[_Line]:
    return [(_JUMP_ANY_BIT, 0, 1, mask), (_RETURN, 0, 0, _ERRNO | errno.EPERM), (_RETURN, 0, 0, _ALLOW)]


def _deny_values(values: tuple[int, ...]) -> list[_Line]:
    lines: list[_Line] = []
    for value in values:
        lines += [(_JUMP_EQUAL, 0, 1, value), (_RETURN, 0, 0, _ERRNO | errno.EPERM)]
    return [*lines, (_RETURN, 0, 0, _ALLOW)]


def _deny_other_than(first: int, second: int) -> list[_Line]:
    """Deny unless the first argument is `first` and the second is not `second`."""
    return [
        (_JUMP_EQUAL, 1, 0, first),
        (_RETURN, 0, 0, _ERRNO | errno.EPERM),
        (_LOAD, 0, 0, _ARGUMENTS + 8),
        *_deny_values((second,)),
    ]


def _allow_values(values: tuple[int, ...], error: int) -> list[_Line]:
    lines: list[_Line] = []
    for value in values:
        lines += [(_JUMP_EQUAL, 0, 1, value), (_RETURN, 0, 0, _ALLOW)]
    return [*lines, (_RETURN, 0, 0, _ERRNO | error)]


def open_program(filter_program: bytes) -> int:
    """A new descriptor of a file in memory with the filter, to be inherited by one process."""
    descriptor = os.memfd_create("seccomp", 0)
    os.write(descriptor, filter_program)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
