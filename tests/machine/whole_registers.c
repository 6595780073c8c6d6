/* Lets User-mode Linux run on a processor with AMX; it is preloaded into linux.uml.
 *
 * Its buffer for the registers of a process ends before those of AMX, and the kernel of the host refuses
 * to write a part of them (EFAULT), which User-mode Linux takes for the end of its first process. Here
 * the registers that the buffer lacks keep their values.
 */
#include <elf.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char registers[65536] __attribute__((aligned(64)));

/* The C library's prototype, whose PTRACE_PEEK requests return a word. */
long ptrace(enum __ptrace_request request, ...)
{
    va_list rest;
    va_start(rest, request);
    pid_t pid = va_arg(rest, pid_t);
    void *address = va_arg(rest, void *);
    void *data = va_arg(rest, void *);
    va_end(rest);
    if (request == PTRACE_PEEKTEXT || request == PTRACE_PEEKDATA || request == PTRACE_PEEKUSER) {
        long word;
        long done = syscall(SYS_ptrace, request, pid, address, &word);
        return done < 0 ? done : word;
    }
    if (request == PTRACE_SETREGSET && (long)address == NT_X86_XSTATE) {
        const struct iovec *part = data;
        struct iovec whole = {registers, sizeof registers};
        if (syscall(SYS_ptrace, PTRACE_GETREGSET, pid, address, &whole) < 0)
            return -1;
        if (part->iov_len < whole.iov_len) {
            memcpy(registers, part->iov_base, part->iov_len);
            return syscall(SYS_ptrace, request, pid, address, &whole);
        }
    }
    return syscall(SYS_ptrace, request, pid, address, data);
}
