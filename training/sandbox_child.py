"""What runs inside the sandbox: shut every door, then execute one program. Standard library only.

    python -I -S -B sandbox_child.py FOLDER SECONDS MEGABYTES RESULT      program and token on standard input, as JSON

Three layers, each by the kernel and each irreversible:

* resource limits on processor time, memory, file size and open files;
* Landlock: files can be read below the interpreter's own folders, written below FOLDER, and nowhere else;
* a seccomp filter: no sockets, no new processes or threads, no signals to others, no namespaces, mounts or modules.

The token is written to the descriptor RESULT after the program has run to its end: a program that exits early, with
whatever code, has not passed.
"""

import ctypes
import json
import os
import platform
import resource
import struct
import sys
import traceback

PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP = 1, 38, 22
SIGKILL = 9

# name: (x86_64, aarch64); None where the architecture has no such call
FORBIDDEN = {
    "socket": (41, 198),
    "socketpair": (53, 199),
    "connect": (42, 203),
    "bind": (49, 200),
    "listen": (50, 201),
    "accept": (43, 202),
    "accept4": (288, 242),
    "sendto": (44, 206),
    "sendmsg": (46, 211),
    "sendmmsg": (307, 269),
    "clone": (56, 220),
    "clone3": (435, 435),
    "fork": (57, None),
    "vfork": (58, None),
    "execve": (59, 221),
    "execveat": (322, 281),
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "unshare": (272, 97),
    "setns": (308, 268),
    "open_by_handle_at": (304, 265),
    "setuid": (105, 146),
    "setgid": (106, 144),
    "setreuid": (113, 145),
    "setregid": (114, 143),
    "setresuid": (117, 147),
    "setresgid": (119, 149),
    "capset": (126, 91),
    "reboot": (169, 142),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "io_uring_setup": (425, 425),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "userfaultfd": (323, 282),
    "memfd_create": (319, 279),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "sethostname": (170, 161),
}
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}

libc = ctypes.CDLL(None, use_errno=True)


def limit_resources(seconds: int, megabytes: int) -> None:
    def cap(kind: int, value: int) -> None:
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))

    cap(resource.RLIMIT_CPU, seconds + 1)
    cap(resource.RLIMIT_AS, megabytes << 20)
    cap(resource.RLIMIT_FSIZE, 1 << 20)
    cap(resource.RLIMIT_NOFILE, 32)
    cap(resource.RLIMIT_CORE, 0)


def restrict_files(folder: str) -> bool:
    """Landlock, where the kernel has it: read the interpreter, write the folder, nothing else."""
    create, add, restrict = 444, 445, 446
    version = libc.syscall(create, None, ctypes.c_size_t(0), 1)
    if version < 1:
        return False
    # Bits grew with versions: execute … make_sym (13), refer (2), truncate (3), ioctl_dev (5).
    bits = 13 + (version >= 2) + (version >= 3)
    everything = (1 << bits) - 1
    attributes = struct.pack("<Q", everything)
    rules = libc.syscall(create, attributes, ctypes.c_size_t(len(attributes)), 0)
    if rules < 0:
        return False
    read_file, read_folder = 1 << 2, 1 << 3
    readable = {sys.base_prefix, sys.base_exec_prefix, "/lib", "/lib64", "/usr/lib", "/usr/share/zoneinfo"}
    places = dict.fromkeys(sorted(readable), read_file | read_folder) | {folder: everything & ~1}
    for place, access in places.items():
        try:
            handle = os.open(place, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        rule = struct.pack("<Qi", access, handle)
        done = libc.syscall(add, rules, 1, rule, 0)
        os.close(handle)
        if done != 0:
            return False
    locked: bool = libc.syscall(restrict, rules, 0) == 0
    os.close(rules)
    return locked


def forbid_calls() -> bool:
    """A seccomp filter answering "not permitted" to every forbidden call; other architectures' calls kill."""
    if platform.machine() not in MACHINES:
        return False
    column, audit = MACHINES[platform.machine()]
    numbers = [number for pair in FORBIDDEN.values() if (number := pair[column]) is not None]
    load, equal, at_least, answer = 0x20, 0x15, 0x35, 0x06
    kill, refuse, allow = 0x80000000, 0x00050001, 0x7FFF0000
    program = [(load, 0, 0, 4), (equal, 1, 0, audit), (answer, 0, 0, kill), (load, 0, 0, 0)]
    if column == 0:  # the x32 calls of x86-64 have numbers of their own
        program += [(at_least, 0, 1, 0x40000000), (answer, 0, 0, kill)]
    for number in numbers:
        program += [(equal, 0, 1, number), (answer, 0, 0, refuse)]
    program.append((answer, 0, 0, allow))
    code = b"".join(struct.pack("<HBBI", *step) for step in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    head = struct.pack("<HxxxxxxQ", len(program), ctypes.addressof(buffer))
    done: bool = libc.prctl(PR_SET_SECCOMP, 2, head, 0, 0) == 0
    return done


def main() -> None:
    folder, seconds, megabytes, result = sys.argv[1], *map(int, sys.argv[2:5])
    task = json.loads(sys.stdin.read())
    os.chdir(folder)
    libc.prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    limit_resources(seconds, megabytes)
    files = restrict_files(folder)
    calls = forbid_calls()
    os.write(result, (json.dumps({"files": files, "calls": calls}) + "\n").encode())
    if not calls:
        return  # without the filter there is a network: run nothing
    try:
        exec(compile(task["program"], "<program>", "exec"), {"__name__": "__main__"})
    except BaseException:
        error = traceback.format_exc(limit=-2)[-2000:]
        os.write(result, (json.dumps({"error": error}) + "\n").encode())
        return
    os.write(result, (json.dumps({"token": task["token"]}) + "\n").encode())


if __name__ == "__main__":
    main()
