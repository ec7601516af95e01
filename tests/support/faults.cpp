// Loaded before libc (LD_PRELOAD): counts a program's system calls that change files below a folder, and makes one of them
// fail. A filter of the kernel hands them over, so that none escapes, whoever makes it: std, or a crate without libc.
//
// FAULT_FOLDER: only what is below it counts. FAULT_AT: the call, from 1; FAULT: what happens to it: enospc, eio, erofs, short
// (half of the bytes are written), wait (half a minute), or kill. FAULT_COUNT: a file that gets the number of calls when the program ends. FAULT_LOG: a
// file that gets a line for each wait, write, sync and rename: its kind, a tab, the path, and the new path of a rename.
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#ifndef __x86_64__
#error "the registers of a system call are known for x86-64 alone"
#endif

static const long TRACED[] = {SYS_write,    SYS_pwrite64,  SYS_writev,     SYS_pwritev,  SYS_fsync,     SYS_fdatasync,
                              SYS_ftruncate, SYS_fallocate, SYS_open,       SYS_openat,   SYS_creat,     SYS_rename,
                              SYS_renameat, SYS_renameat2, SYS_mkdir,      SYS_mkdirat,  SYS_unlink,    SYS_unlinkat,
                              SYS_rmdir,    SYS_link,      SYS_linkat,     SYS_symlink,  SYS_symlinkat, SYS_sendfile,
                              SYS_copy_file_range};
static const int COUNT = sizeof TRACED / sizeof *TRACED;
// The sixth argument of calls that this library makes itself: no traced call has one of its own.
static const unsigned MINE = 0x6b69756e;

static int calls = 0;

static int is_below(const char* path) {
    const char* folder = getenv("FAULT_FOLDER");
    return folder && strncmp(path, folder, strlen(folder)) == 0;
}

static int is_below(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    const ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0) return 0;
    path[n] = 0;
    return is_below(path);
}

// A path relative to a folder that is below the one watched is below it, too.
static int is_below(int folder, const char* path) {
    if (path[0] == '/') return is_below(path);
    if (folder != AT_FDCWD) return is_below(folder);
    char here[4096];
    return getcwd(here, sizeof here) && is_below(here);
}

static int is_watched(long call, const long* a) {
    switch (call) {
        case SYS_open: return (a[1] & O_CREAT) && is_below(AT_FDCWD, (const char*)a[0]);
        case SYS_openat: return (a[2] & O_CREAT) && is_below((int)a[0], (const char*)a[1]);
        case SYS_creat: case SYS_mkdir: case SYS_unlink: case SYS_rmdir: return is_below(AT_FDCWD, (const char*)a[0]);
        case SYS_mkdirat: case SYS_unlinkat: return is_below((int)a[0], (const char*)a[1]);
        case SYS_rename: case SYS_link: case SYS_symlink: return is_below(AT_FDCWD, (const char*)a[1]);
        case SYS_renameat: case SYS_renameat2: case SYS_linkat: return is_below((int)a[2], (const char*)a[3]);
        case SYS_symlinkat: return is_below((int)a[1], (const char*)a[2]);
        case SYS_copy_file_range: return is_below((int)a[2]);
        default: return is_below((int)a[0]);
    }
}

static int failure(const char* fault) {
    if (strcmp(fault, "enospc") == 0) return ENOSPC;
    if (strcmp(fault, "eio") == 0) return EIO;
    return strcmp(fault, "erofs") == 0 ? EROFS : 0;
}

// The path behind a descriptor, or of a name in a folder.
static const char* path_of(int fd, char (&path)[4096]) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    const ssize_t n = readlink(link, path, sizeof path - 1);
    path[n < 0 ? 0 : n] = 0;
    return path;
}
static const char* path_of(int folder, const char* name, char (&path)[4096]) {
    if (name[0] == '/' || folder == AT_FDCWD) return name;
    const size_t n = strlen(path_of(folder, path));
    snprintf(path + n, sizeof path - n, "/%s", name);
    return path;
}

static void log(const char* line) {
    const char* file = getenv("FAULT_LOG");
    const long mine = (long)MINE, flags = O_WRONLY | O_CREAT | O_APPEND;
    const long fd = file ? syscall(SYS_openat, AT_FDCWD, file, flags, 0600, 0, mine) : -1;
    if (fd < 0) return;
    syscall(SYS_write, fd, line, strlen(line), 0, 0, mine);
    close((int)fd);
}

// Adds a call that has succeeded to the log.
static void log(long call, const long* a) {
    char from[4096], to[4096], line[8300];
    switch (call) {
        case SYS_write: case SYS_pwrite64: case SYS_writev: case SYS_pwritev: case SYS_ftruncate:
            snprintf(line, sizeof line, "write\t%s\n", path_of((int)a[0], from));
            break;
        case SYS_fsync: case SYS_fdatasync: snprintf(line, sizeof line, "sync\t%s\n", path_of((int)a[0], from)); break;
        case SYS_rename: snprintf(line, sizeof line, "rename\t%s\t%s\n", (const char*)a[0], (const char*)a[1]); break;
        case SYS_renameat: case SYS_renameat2:
            snprintf(line, sizeof line, "rename\t%s\t%s\n", path_of((int)a[0], (const char*)a[1], from),
                     path_of((int)a[2], (const char*)a[3], to));
            break;
        default: return;
    }
    log(line);
}

// What the call gives, as the kernel says it: an error is negative.
static long perform(long call, long* a) {
    const char *fault = getenv("FAULT"), *at = getenv("FAULT_AT");
    const bool watched = is_watched(call, a);
    if (watched && __atomic_add_fetch(&calls, 1, __ATOMIC_SEQ_CST) == (at ? atoi(at) : -1) && fault) {
        if (strcmp(fault, "kill") == 0) raise(SIGKILL);
        if (strcmp(fault, "wait") == 0) {
            log("wait\n");
            // A signal wakes it early.
            for (int i = 0; i < 300; i++) usleep(100000);
        }
        if (failure(fault)) return -failure(fault);
        if (strcmp(fault, "short") == 0 && (call == SYS_write || call == SYS_pwrite64) && a[2] > 1) a[2] /= 2;
    }
    // Its sixth argument is its own; without it, callers write.
    if (call == SYS_copy_file_range) return -ENOSYS;
    const long result = syscall(call, a[0], a[1], a[2], a[3], a[4], (long)MINE);
    if (result < 0) return -errno;
    if (watched) log(call, a);
    return result;
}

static void handed_over(int, siginfo_t* info, void* context) {
    const int before = errno;
    greg_t* r = ((ucontext_t*)context)->uc_mcontext.gregs;
    long arguments[] = {(long)r[REG_RDI], (long)r[REG_RSI], (long)r[REG_RDX], (long)r[REG_R10], (long)r[REG_R8]};
    r[REG_RAX] = perform(info->si_syscall, arguments);
    errno = before;
}

__attribute__((constructor)) static void begin() {
    struct sigaction action = {};
    action.sa_sigaction = handed_over;
    action.sa_flags = SA_SIGINFO | SA_NODEFER | SA_RESTART;
    sigaction(SIGSYS, &action, nullptr);

    sock_filter code[COUNT + 5];
    int n = 0;
    code[n++] = BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, args[5]));
    code[n++] = BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, MINE, (unsigned char)(COUNT + 1), 0);
    code[n++] = BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr));
    for (int i = 0; i < COUNT; i++)
        code[n++] = BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)TRACED[i], (unsigned char)(COUNT - i), 0);
    code[n++] = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    code[n++] = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP);
    sock_fprog program = {(unsigned short)n, code};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program)) {
        perror("faults: the kernel takes no filter of system calls");
        _exit(99);
    }
}

__attribute__((destructor)) static void end() {
    const char* path = getenv("FAULT_COUNT");
    FILE* file = path ? fopen(path, "w") : nullptr;
    if (!file) return;
    fprintf(file, "%d\n", calls);
    fclose(file);
}
