// Loaded before libc (LD_PRELOAD): counts a program's calls that change files below a folder, and makes one of them fail.
//
// FAULT_FOLDER: only what is below it counts. FAULT_AT: the call, from 1. FAULT: what happens to it: enospc, eio, short
// (half of the bytes are written), or kill. FAULT_COUNT: a file that gets the number of calls when the program ends.
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static int calls = 0;

static int below(const char* path) {
    const char* folder = getenv("FAULT_FOLDER");
    return folder && path && strncmp(path, folder, strlen(folder)) == 0;
}

static int below(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    const ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0) return 0;
    path[n] = 0;
    return below(path);
}

// The fault that is due at this call, or nullptr.
static const char* due() {
    const char* at = getenv("FAULT_AT");
    const char* fault = getenv("FAULT");
    if (__atomic_add_fetch(&calls, 1, __ATOMIC_SEQ_CST) != (at ? atoi(at) : -1) || !fault) return nullptr;
    if (strcmp(fault, "kill") == 0) raise(SIGKILL);
    return fault;
}

static int failed(const char* fault) {
    if (!fault || strcmp(fault, "short") == 0) return 0;
    errno = strcmp(fault, "eio") == 0 ? EIO : ENOSPC;
    return 1;
}

template <typename F> static F next(const char* name) { return (F)dlsym(RTLD_NEXT, name); }

extern "C" {

ssize_t write(int fd, const void* bytes, size_t n) {
    static auto real = next<ssize_t (*)(int, const void*, size_t)>("write");
    if (below(fd)) {
        const char* fault = due();
        if (failed(fault)) return -1;
        if (fault && n > 1) n /= 2;
    }
    return real(fd, bytes, n);
}

int fsync(int fd) {
    static auto real = next<int (*)(int)>("fsync");
    return below(fd) && failed(due()) ? -1 : real(fd);
}

int fdatasync(int fd) {
    static auto real = next<int (*)(int)>("fdatasync");
    return below(fd) && failed(due()) ? -1 : real(fd);
}

int rename(const char* from, const char* to) {
    static auto real = next<int (*)(const char*, const char*)>("rename");
    return below(to) && failed(due()) ? -1 : real(from, to);
}

int mkdir(const char* path, mode_t mode) {
    static auto real = next<int (*)(const char*, mode_t)>("mkdir");
    return below(path) && failed(due()) ? -1 : real(path, mode);
}

int ftruncate64(int fd, off64_t n) {
    static auto real = next<int (*)(int, off64_t)>("ftruncate64");
    return below(fd) && failed(due()) ? -1 : real(fd, n);
}

int open64(const char* path, int flags, ...) {
    static auto real = next<int (*)(const char*, int, ...)>("open64");
    va_list more;
    va_start(more, flags);
    const mode_t mode = flags & O_CREAT ? va_arg(more, mode_t) : 0;
    va_end(more);
    return (flags & O_CREAT) && below(path) && failed(due()) ? -1 : real(path, flags, mode);
}

__attribute__((destructor)) static void tell() {
    const char* path = getenv("FAULT_COUNT");
    FILE* file = path ? fopen(path, "w") : nullptr;
    if (!file) return;
    fprintf(file, "%d\n", calls);
    fclose(file);
}
}
