"""The seccomp filter decides as it should for both architectures, and its numbers are those of the kernel's headers."""

from __future__ import annotations

import errno
import re
import struct
from pathlib import Path

import pytest

from workers.sandbox import seccomp
from workers.sandbox.seccomp import Machine, machine, program

ALLOW, KILL = 0x7FFF0000, 0x80000000
HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}


def of(name: str) -> Machine:
    target = machine(name)
    assert target is not None
    return target


def decision(filter_program: bytes, audit_value: int, number: int, *arguments: int) -> int:
    """Run the filter as the kernel does: one accumulator, and jumps forward only."""
    padded = (*arguments, 0, 0, 0, 0, 0, 0)[:6]
    data = struct.pack("<IIQ6Q", number, audit_value, 0, *padded)
    lines = list(struct.iter_unpack("<HBBI", filter_program))
    accumulator = position = 0
    while True:
        code, if_true, if_false, operand = lines[position]
        position += 1
        if code == 0x20:
            accumulator = struct.unpack_from("<I", data, operand)[0]
            continue
        if code == 0x06:
            return int(operand)
        holds = {0x15: accumulator == operand, 0x25: accumulator > operand, 0x45: bool(accumulator & operand)}[code]
        position += if_true if holds else if_false


def refusal(value: int) -> int | None:
    """The errno of a decision; None if it allows the call."""
    if value == ALLOW:
        return None
    assert value >> 16 == 5, hex(value)
    return value & 0xFFFF


@pytest.mark.parametrize("name", HEADERS)
class TestFilter:
    def test_calls_that_no_compiler_needs_are_denied(self, name: str) -> None:
        target = of(name)
        filter_program = program(target)
        for call in ("mount", "setns", "ptrace", "bpf", "keyctl", "io_uring_setup", "open_by_handle_at", "reboot"):
            assert refusal(decision(filter_program, target.audit_value, target.calls[call])) == errno.EPERM, call

    def test_usual_calls_are_allowed(self, name: str) -> None:
        target = of(name)
        filter_program = program(target)
        usual = {"x86_64": {"read": 0, "execve": 59, "personality": 135, "futex": 202, "openat": 257}}
        usual["aarch64"] = {"read": 63, "execve": 221, "personality": 92, "futex": 98, "openat": 56}
        for call, number in usual[name].items():
            assert refusal(decision(filter_program, target.audit_value, number, 0x40000)) is None, call

    def test_namespaces_are_denied_and_threads_are_allowed(self, name: str) -> None:
        target = of(name)
        filter_program = program(target)
        clone, unshare, clone3 = (target.calls[call] for call in ("clone", "unshare", "clone3"))
        for flag in (0x20000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000):
            for call in (clone, unshare):
                assert refusal(decision(filter_program, target.audit_value, call, flag | 0x11)) == errno.EPERM
        threads = 0x3D0F00  # what the C library's pthread_create asks for
        assert refusal(decision(filter_program, target.audit_value, clone, threads)) is None
        assert refusal(decision(filter_program, target.audit_value, unshare, 0x400)) is None  # CLONE_FILES
        # Its flags are in memory: the C library falls back to clone after this error only.
        assert refusal(decision(filter_program, target.audit_value, clone3)) == errno.ENOSYS

    def test_arguments_decide_where_a_call_has_a_harmless_use(self, name: str) -> None:
        target = of(name)
        filter_program = program(target)

        def answer(call: str, *arguments: int) -> int | None:
            return refusal(decision(filter_program, target.audit_value, target.calls[call], *arguments))

        assert answer("ioctl", 0, 0x5412) == errno.EPERM  # TIOCSTI
        # The kernel reads 32 bits of the command, so higher bits must not hide it.
        assert answer("ioctl", 0, 0x1_0000_541C) == errno.EPERM  # TIOCLINUX
        assert answer("ioctl", 0, 0x5413) is None  # TIOCGWINSZ
        assert answer("prlimit64", 0) is None
        assert answer("prlimit64", 1) == errno.EPERM  # of the supervisor
        for call in ("sched_setscheduler", "sched_setattr", "sched_setaffinity", "sched_setparam"):
            assert answer(call, 1) == errno.EPERM  # of the supervisor
            assert answer(call, 0) is None
            assert answer(call, 77) is None  # a thread of the program
        assert answer("setpriority", 0, 1) == errno.EPERM
        assert answer("setpriority", 0, 77) is None
        assert answer("setpriority", 2, 0) == errno.EPERM  # of all processes of the user
        assert answer("ioprio_set", 1, 1) == errno.EPERM
        assert answer("ioprio_set", 1, 77) is None
        assert answer("ioprio_set", 3, 0) == errno.EPERM
        assert answer("socket", 2) is None  # AF_INET
        assert answer("socket", 40) == errno.EAFNOSUPPORT  # AF_VSOCK

    def test_process_memory_is_denied_without_a_pid_namespace(self, name: str) -> None:
        target = of(name)
        number = target.calls["process_vm_readv"]
        assert refusal(decision(program(target), target.audit_value, number)) is None
        strict = program(target, deny_process_memory=True)
        assert refusal(decision(strict, target.audit_value, number)) == errno.EPERM

    def test_other_architectures_and_unknown_calls_are_refused(self, name: str) -> None:
        target = of(name)
        filter_program = program(target)
        assert decision(filter_program, 0x40000003, 11) == KILL  # i386's execve
        assert refusal(decision(filter_program, target.audit_value, 0x4000003B)) == errno.ENOSYS  # x32's execve
        assert refusal(decision(filter_program, target.audit_value, 470)) == errno.ENOSYS

    def test_the_numbers_are_those_of_the_kernels_headers(self, name: str) -> None:
        if not HEADERS[name].exists():
            pytest.skip("the kernel's headers are not installed here")
        defined = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", HEADERS[name].read_text())
        numbers = {call: int(number) for call, number in defined}
        for call, number in of(name).calls.items():
            assert numbers[call] == number, call


def test_an_architecture_without_a_filter_is_not_guessed() -> None:
    assert seccomp.machine("riscv64") is None
