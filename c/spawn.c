/*
 * Starts a command of the platform.
 *
 * posix_spawn(3C) could do all of this but one thing: it can't give the command
 * a limit of descriptors other than the caller's.  So this uses vfork(2).
 * fork(2) is no choice: it copies the page tables of all memory, and on illumos
 * reserves as much swap again.
 *
 * Until exec, the child runs in the memory of the caller.  So it makes only
 * system calls, does not touch what libc caches (the caller would find it
 * changed), and keeps all signals blocked until just before exec.  A signal
 * that is pending then may still run the caller's handler in it: that only
 * writes to a socket, which both have.
 *
 * It does not set the actions of signals.  The caller ignores none (see
 * signals.rs in src/os), and exec ends handlers, so the command starts with the
 * defaults.
 */

#include <errno.h>
#include <signal.h>
#include <sys/types.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

/*
 * Runs `path` with these arguments and this environment.  The descriptors,
 * which must all be above 2, become its standard input, output and error.  It
 * has a process group of its own, and no signal is blocked.  `files` is its
 * limit of descriptors; 0 leaves the limit alone.  Returns 0 and sets *pid, or
 * returns the errno of what failed.
 */
int
spawn_command(const char *path, char *const argv[], char *const envp[],
    const int fds[3], unsigned long files, pid_t *pid)
{
	sigset_t all, before, none;
	volatile int failed = 0;
	int error;
	pid_t child;

	(void) sigfillset(&all);
	(void) sigemptyset(&none);
	if ((error = pthread_sigmask(SIG_SETMASK, &all, &before)) != 0)
		return (error);

	child = vfork();
	if (child == 0) {
		struct rlimit limit;

		if (setpgid(0, 0) == 0 &&
		    dup2(fds[0], 0) == 0 &&
		    dup2(fds[1], 1) == 1 &&
		    dup2(fds[2], 2) == 2) {
			if (files != 0 &&
			    getrlimit(RLIMIT_NOFILE, &limit) == 0 &&
			    files < limit.rlim_max) {
				limit.rlim_cur = files;
				(void) setrlimit(RLIMIT_NOFILE, &limit);
			}
			(void) sigprocmask(SIG_SETMASK, &none, NULL);
			(void) execve(path, argv, envp);
		}
		failed = errno;
		_exit(127);
	}
	error = errno;
	(void) pthread_sigmask(SIG_SETMASK, &before, NULL);

	if (child == -1)
		return (error);
	if (failed != 0) {
		while (waitpid(child, NULL, 0) == -1 && errno == EINTR)
			continue;
		return (failed);
	}
	*pid = child;
	return (0);
}
