/*
 * Loaded before the C library, has one system call on files that a check
 * makes do nothing, or too much: which one, DEAF says. So no event comes where
 * one is expected, as on a file system that reports nothing.
 */

#define	_GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int
is_deaf(const char *what)
{
	const char *deaf = getenv("DEAF");

	return (deaf != NULL && strcmp(deaf, what) == 0);
}

static int
ends_with(const char *path, const char *end)
{
	size_t a = strlen(path), b = strlen(end);

	return (a >= b && strcmp(path + a - b, end) == 0);
}

int
open64(const char *path, int flags, ...)
{
	int (*real)(const char *, int, ...) = dlsym(RTLD_NEXT, "open64");

	/* An entry that is made elsewhere. */
	if (ends_with(path, "/new") && is_deaf("create"))
		path = "/dev/null";
	return (real(path, flags, 0666));
}

ssize_t
write(int fd, const void *bytes, size_t n)
{
	ssize_t (*real)(int, const void *, size_t) = dlsym(RTLD_NEXT, "write");
	int flags = fcntl(fd, F_GETFL);

	if (flags != -1 && (flags & O_APPEND) && is_deaf("write"))
		return (n);
	return (real(fd, bytes, n));
}

int
ftruncate64(int fd, off64_t size)
{
	int (*real)(int, off64_t) = dlsym(RTLD_NEXT, "ftruncate64");

	return (is_deaf("truncate") ? 0 : real(fd, size));
}

int
chmod(const char *path, mode_t mode)
{
	int (*real)(const char *, mode_t) = dlsym(RTLD_NEXT, "chmod");

	/* Too much: the file is written, too. */
	if (ends_with(path, "/mode") && is_deaf("chmod"))
		(void) truncate(path, 1);
	return (real(path, mode));
}

int
rename(const char *old, const char *new)
{
	int (*real)(const char *, const char *) = dlsym(RTLD_NEXT, "rename");

	if ((ends_with(new, "/replaced") && is_deaf("rename-over")) ||
	    (ends_with(new, "/away") && is_deaf("rename-away")) ||
	    ((ends_with(new, "/dir") || ends_with(new, "/dir.old")) &&
	    is_deaf("directory")))
		return (0);
	return (real(old, new));
}

int
unlink(const char *path)
{
	int (*real)(const char *) = dlsym(RTLD_NEXT, "unlink");

	if (ends_with(path, "/unlinked") && is_deaf("unlink"))
		return (0);
	return (real(path));
}

int
mkdir(const char *path, mode_t mode)
{
	int (*real)(const char *, mode_t) = dlsym(RTLD_NEXT, "mkdir");

	if (ends_with(path, ".1") && is_deaf("mount-point"))
		return (0);
	return (real(path, mode));
}
