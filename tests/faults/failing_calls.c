/* The n-th call of the C library about files below $FAULT_UNDER fails. For LD_PRELOAD. */

#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static long calls, due;
static int number;

/* Let call n from now on fail with this errno; 0: none. */
void fault_at(long n, int error) { calls = 0; due = n; number = error; }
/* How many calls there were since. */
long fault_calls(void) { return calls; }

static int below(const char *path) {
    const char *root = getenv("FAULT_UNDER");
    return root && path && strncmp(path, root, strlen(root)) == 0;
}

static int open_below(int descriptor) {
    char link[64], path[4096];
    int before = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    errno = before;
    if (length < 0) return 0;
    path[length] = 0;
    return below(path);
}

static int fails(int is_below) {
    if (!is_below || ++calls != due) return 0;
    errno = number;
    return 1;
}

#define REAL(name) static __typeof__(&name) real; if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)
#define MODE(flags) mode_t mode = 0; if ((flags) & (O_CREAT | O_TMPFILE)) { va_list more; va_start(more, flags); mode = va_arg(more, mode_t); va_end(more); }
#define OPEN(name) int name(const char *path, int flags, ...) { REAL(name); MODE(flags) return fails(below(path)) ? -1 : real(path, flags, mode); }
#define OPENAT(name) int name(int at, const char *path, int flags, ...) { REAL(name); MODE(flags) return fails(below(path) || (at >= 0 && open_below(at))) ? -1 : real(at, path, flags, mode); }
#define BY_FD(type, name, given, passed) type name given { REAL(name); return fails(open_below(descriptor)) ? -1 : real passed; }
#define BY_PATH(type, bad, name, given, passed) type name given { REAL(name); return fails(below(path)) ? bad : real passed; }

OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)
BY_FD(ssize_t, read, (int descriptor, void *to, size_t count), (descriptor, to, count))
BY_FD(ssize_t, write, (int descriptor, const void *from, size_t count), (descriptor, from, count))
BY_FD(ssize_t, preadv, (int descriptor, const struct iovec *to, int count, off_t at), (descriptor, to, count, at))
BY_FD(ssize_t, preadv64, (int descriptor, const struct iovec *to, int count, off64_t at), (descriptor, to, count, at))
BY_FD(ssize_t, preadv2, (int descriptor, const struct iovec *to, int count, off_t at, int how), (descriptor, to, count, at, how))
BY_FD(ssize_t, preadv64v2, (int descriptor, const struct iovec *to, int count, off64_t at, int how), (descriptor, to, count, at, how))
BY_FD(ssize_t, sendfile, (int descriptor, int from, off_t *at, size_t count), (descriptor, from, at, count))
BY_FD(ssize_t, sendfile64, (int descriptor, int from, off64_t *at, size_t count), (descriptor, from, at, count))
BY_FD(int, fsync, (int descriptor), (descriptor))
BY_PATH(int, -1, mkdir, (const char *path, mode_t mode), (path, mode))
BY_PATH(int, -1, rename, (const char *path, const char *to), (path, to))
BY_PATH(int, -1, unlink, (const char *path), (path))
BY_PATH(int, -1, rmdir, (const char *path), (path))
BY_PATH(DIR *, NULL, opendir, (const char *path), (path))

int unlinkat(int at, const char *path, int flags) {
    REAL(unlinkat);
    return fails(below(path) || (at >= 0 && open_below(at))) ? -1 : real(at, path, flags);
}

int renameat2(int at, const char *path, int to_at, const char *to, unsigned flags) {
    REAL(renameat2);
    return fails(below(path)) ? -1 : real(at, path, to_at, to, flags);
}
