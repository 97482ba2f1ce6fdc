/* A file system with few abilities, for LD_PRELOAD: no locks, permissions, links or flushing, and
 * no renaming over a file that is there. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static int refuse(int code) {
    errno = code;
    return -1;
}

static int lacks_locks(void) {
    const char *code = getenv("POOR_DISK_FLOCK");
    return refuse(code ? atoi(code) : ENOSYS);
}

int flock(int file, int operation) { (void)file; (void)operation; return lacks_locks(); }
int chmod(const char *path, mode_t mode) { (void)path; (void)mode; return refuse(EPERM); }
int fchmod(int file, mode_t mode) { (void)file; (void)mode; return refuse(EPERM); }
int fchmodat(int folder, const char *path, mode_t mode, int flags) {
    (void)folder; (void)path; (void)mode; (void)flags;
    return refuse(EPERM);
}
int link(const char *from, const char *to) { (void)from; (void)to; return refuse(EPERM); }
int linkat(int a, const char *from, int b, const char *to, int flags) {
    (void)a; (void)from; (void)b; (void)to; (void)flags;
    return refuse(EPERM);
}
int symlink(const char *to, const char *path) { (void)to; (void)path; return refuse(EPERM); }
int symlinkat(const char *to, int folder, const char *path) {
    (void)to; (void)folder; (void)path;
    return refuse(EPERM);
}
int fsync(int file) { (void)file; return refuse(EINVAL); }
int fdatasync(int file) { (void)file; return refuse(EINVAL); }

int rename(const char *from, const char *to) {
    static int (*real)(const char *, const char *);
    if (!real) real = (int (*)(const char *, const char *))dlsym(RTLD_NEXT, "rename");
    struct stat about;
    if (lstat(to, &about) == 0 && !S_ISDIR(about.st_mode)) return refuse(EEXIST);
    return real(from, to);
}
