"""Runs a program under ptrace and stops it at its calls that touch files or sockets.

A seccomp filter hands only those calls to the tracer, so the rest of the program runs at full speed. Each stop is before the
call is made. The points of a run are counted over all threads, which `strace -e inject=...:when=K` cannot do: its counters are
per thread.
"""

import ctypes
import os
import platform
import signal
import struct

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long

TRACEME, CONT, SETOPTIONS, GET_SYSCALL_INFO = 0, 7, 0x4200, 0x420E
# Fork, vfork, clone, exec, seccomp; and the program dies with its tracer.
OPTIONS = 0x2 | 0x4 | 0x8 | 0x10 | 0x80 | 0x100000
EVENT_SECCOMP = 7
WALL = 0x40000000
PR_SET_SECCOMP, SECCOMP_MODE_FILTER, RET_TRACE, RET_ALLOW = 22, 2, 0x7FF00000, 0x7FFF0000

# How a call names what it works on: by descriptor, by path, by directory and path; `2` marks two names, the second counts.
FD, PATH, AT, PATH2, AT2, SYMLINK, SYMLINKAT = range(7)

_X86_64 = {
    "write": (1, FD), "close": (3, FD), "pwrite64": (18, FD), "writev": (20, FD), "sendto": (44, FD), "sendmsg": (46, FD),
    "fsync": (74, FD), "fdatasync": (75, FD), "ftruncate": (77, FD), "fchmod": (91, FD), "fallocate": (285, FD),
    "syncfs": (306, FD), "pwritev": (296, FD), "pwritev2": (328, FD), "open": (2, PATH), "mkdir": (83, PATH),
    "rmdir": (84, PATH), "unlink": (87, PATH), "chmod": (90, PATH), "openat": (257, AT), "openat2": (437, AT),
    "mkdirat": (258, AT), "unlinkat": (263, AT), "fchmodat": (268, AT), "utimensat": (280, AT), "rename": (82, PATH2),
    "link": (86, PATH2), "renameat": (264, AT2), "renameat2": (316, AT2), "linkat": (265, AT2), "symlink": (88, SYMLINK),
    "symlinkat": (266, SYMLINKAT),
}
_AARCH64 = {
    "write": (64, FD), "close": (57, FD), "pwrite64": (68, FD), "writev": (66, FD), "sendto": (206, FD),
    "sendmsg": (211, FD), "fsync": (82, FD), "fdatasync": (83, FD), "ftruncate": (46, FD), "fchmod": (52, FD),
    "fallocate": (47, FD), "syncfs": (267, FD), "pwritev": (70, FD), "pwritev2": (287, FD), "openat": (56, AT),
    "openat2": (437, AT), "mkdirat": (34, AT), "unlinkat": (35, AT), "fchmodat": (53, AT), "utimensat": (88, AT),
    "renameat": (38, AT2), "renameat2": (276, AT2), "linkat": (37, AT2), "symlinkat": (36, SYMLINKAT),
}
CALLS = {"x86_64": _X86_64, "aarch64": _AARCH64}[platform.machine()]
_BY_NUMBER = {number: (name, form) for name, (number, form) in CALLS.items()}


def _ptrace(request, pid, address=0, data=0):
    if _libc.ptrace(request, pid, address, data) < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def _filter():
    """Returns the BPF program that hands our calls to the tracer, and the buffer that it points to."""
    numbers = sorted(_BY_NUMBER)
    program = struct.pack("=HBBI", 0x20, 0, 0, 0)
    for place, number in enumerate(numbers):
        program += struct.pack("=HBBI", 0x15, len(numbers) - place, 0, number)
    program += struct.pack("=HBBI", 0x06, 0, 0, RET_ALLOW) + struct.pack("=HBBI", 0x06, 0, 0, RET_TRACE)
    code = ctypes.create_string_buffer(program, len(program))
    return code, struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(code))


class Call:
    """One call, before it is made."""

    def __init__(self, tid, number, args):
        self.tid, self.args = tid, args
        self.name, self.form = _BY_NUMBER[number]

    def path(self):
        """Returns what the call works on: an absolute path, `socket:[..]` and the like, or None."""
        args = self.args
        try:
            match self.form:
                case _ if self.form == FD:
                    return self._fd(args[0])
                case _ if self.form == PATH:
                    return self._string(args[0])
                case _ if self.form == AT:
                    return self._at(args[0], args[1])
                case _ if self.form == PATH2 or self.form == SYMLINK:
                    return self._string(args[1])
                case _ if self.form == AT2:
                    return self._at(args[2], args[3])
                case _:
                    return self._at(args[1], args[2])
        except OSError:
            return None

    def _fd(self, fd):
        return os.readlink(f"/proc/{self.tid}/fd/{fd & 0xFFFFFFFF}")

    def _at(self, fd, address):
        if address == 0:
            return self._fd(fd)
        name = self._string(address)
        if name.startswith("/"):
            return name
        fd = fd & 0xFFFFFFFF
        base = os.readlink(f"/proc/{self.tid}/cwd") if fd == 0xFFFFFF9C else self._fd(fd)
        return f"{base}/{name}" if name not in ("", ".") else base

    def _string(self, address):
        memory = os.open(f"/proc/{self.tid}/mem", os.O_RDONLY)
        try:
            text = b""
            while b"\0" not in text and len(text) < 8192:
                block = os.pread(memory, 4096 - address % 4096, address)
                text += block
                address += len(block)
            return os.fsdecode(text.split(b"\0", 1)[0])
        finally:
            os.close(memory)


def run(argv, environment, output, started, stopped):
    """Runs `argv` to its end and returns its wait status. Calls `started(pid)` first, then `stopped(call)` before each call
    of interest; the thread goes on when that returns true, and stays where it is otherwise."""
    code, program = _filter()
    pid = os.fork()
    if pid == 0:
        try:
            os.setpgid(0, 0)
            os.dup2(output, 1)
            os.dup2(output, 2)
            _ptrace(TRACEME, 0)
            os.kill(os.getpid(), signal.SIGSTOP)
            if _libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.c_char_p(program), 0, 0):
                raise OSError(ctypes.get_errno(), "seccomp")
            os.execve(argv[0], argv, environment)
        finally:
            os._exit(127)
    os.waitpid(pid, WALL)
    _ptrace(SETOPTIONS, pid, 0, OPTIONS)
    _ptrace(CONT, pid)
    started(pid)
    info = ctypes.create_string_buffer(96)
    known = {pid}
    while True:
        tid, status = os.waitpid(-pid, WALL)
        if os.WIFEXITED(status) or os.WIFSIGNALED(status):
            if tid == pid:
                return status
            continue
        deliver = 0
        if status >> 16 == EVENT_SECCOMP:
            try:
                _ptrace(GET_SYSCALL_INFO, tid, len(info), ctypes.addressof(info))
            except OSError:
                continue
            number, *args = struct.unpack_from("7Q", info.raw, 24)
            if not stopped(Call(tid, number, args)):
                continue
        elif status >> 16 == 0:
            deliver = os.WSTOPSIG(status)
            # A new thread reports with this one, and the first exec with that one.
            if (deliver == signal.SIGSTOP and tid not in known) or deliver == signal.SIGTRAP:
                deliver = 0
            known.add(tid)
        try:
            _ptrace(CONT, tid, 0, deliver)
        except OSError:
            # Killed meanwhile: its end is reported next.
            pass
