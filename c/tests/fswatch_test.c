/*
 * This Source Code Form is subject to the terms of the Mozilla Public
 * License, v. 2.0. If a copy of the MPL was not distributed with this
 * file, You can obtain one at https://mozilla.org/MPL/2.0/.
 */

/*
 * Tests what fswatch reports. Runs in an empty directory, its only argument;
 * prints a line for each case, and exits with 1 at the first that fails.
 */

#define	_GNU_SOURCE
#include <sys/stat.h>
#include <pthread.h>
#include <stdint.h>
#include <time.h>
#include <unistd.h>

#include "../fswatch.h"
#include "check.h"

/* Enough on a busy machine, too. */
#define	TEST_SECONDS	120

static void *
stop_it(void *fw)
{
	CHECK("stop", fswatch_stop(fw) == 0);
	return (NULL);
}

static void
check_fswatch(void)
{
	fswatch_t *fw;
	fswatch_event_t events[8];
	uint32_t n;
	int changed;
	pthread_t thread;

	(void) system("rm -rf ./*");
	put("f", "text");
	CHECK("fswatch", fswatch_open(&fw) == 0);
	CHECK("fswatch", fswatch_add(fw, 1, "nothing", &changed) == ENOENT);
	CHECK("fswatch", fswatch_add(fw, 1, "f", &changed) == 0);
	CHECK("fswatch", changed == 0);
	CHECK("fswatch", fswatch_add(fw, 1, "g", &changed) == EINVAL);

	/* Each way of writing is reported, again and again. */
	for (int i = 0; i < 10; i++) {
		void (*ways[])(void) =
		    { write_it, rename_over, zonecfg_it, recreate };

		for (unsigned int w = 0; w < 4; w++) {
			ways[w]();
			CHECK("fswatch", fswatch_wait(fw, events, 8, &n) == 0);
			CHECK("fswatch", n == 1 && events[0].fe_id == 1);
			CHECK("fswatch", events[0].fe_gone == 0);
			CHECK("fswatch", events[0].fe_exchanged == (w != 0));
		}
	}
	/* Arming again finds a change that was not reported. */
	write_it();
	CHECK("fswatch", fswatch_add(fw, 1, "f", &changed) == 0);
	CHECK("fswatch", changed == 1);
	CHECK("fswatch", fswatch_add(fw, 1, "f", &changed) == 0);
	CHECK("fswatch", changed == 0);

	/* An unchanged file is left alone, and watched as before. */
	CHECK("check", fswatch_check(fw, 1, "f", &changed) == 0);
	CHECK("check", changed == 0);
	write_it();
	CHECK("check", fswatch_wait(fw, events, 8, &n) == 0 && n == 1);
	rename_over();
	CHECK("check", fswatch_check(fw, 1, "f", &changed) == 0);
	CHECK("check", changed == 1);
	write_it();
	CHECK("check", fswatch_wait(fw, events, 8, &n) == 0);
	CHECK("check", n == 1 && events[0].fe_exchanged == 0);
	CHECK("check", fswatch_check(fw, 3, "nothing", &changed) == ENOENT);

	/* The file is removed, and then made again. */
	unlink_it();
	CHECK("fswatch", fswatch_wait(fw, events, 8, &n) == 0);
	CHECK("fswatch", n == 1 && events[0].fe_gone == ENOENT);
	put("f", "text");
	CHECK("fswatch", fswatch_add(fw, 1, "f", &changed) == 0);

	/* A symbolic link is watched itself, not the file it leads to. */
	CHECK("fswatch", symlink("f", "l") == 0);
	CHECK("fswatch", fswatch_add(fw, 2, "l", &changed) == 0);
	CHECK("fswatch", unlink("l") == 0);
	CHECK("fswatch", fswatch_wait(fw, events, 8, &n) == 0);
	CHECK("fswatch", n == 1 && events[0].fe_id == 2);

	/* Many watches, so that tables grow. Removed watches report nothing. */
	for (uint64_t id = 100; id < 1100; id++) {
		char name[32];

		(void) snprintf(name, sizeof (name), "file%d", (int)id);
		put(name, "x");
		CHECK("many", fswatch_add(fw, id, name, &changed) == 0);
	}
	fswatch_remove(fw, 500);
	fswatch_remove(fw, 500);
	put("file500", "y");
	put("file501", "y");
	CHECK("many", fswatch_wait(fw, events, 8, &n) == 0);
	CHECK("many", n == 1 && events[0].fe_id == 501);

	CHECK("stop", pthread_create(&thread, NULL, stop_it, fw) == 0);
	CHECK("stop", fswatch_wait(fw, events, 8, &n) == ECANCELED);
	CHECK("stop", pthread_join(thread, NULL) == 0);
	fswatch_close(fw);
	(void) printf("fswatch reports every change\n");
}

/* --- many threads at once --- */

#define	CROWD_FILES	3
#define	CROWD_THREADS	4
#define	CROWD_TURNS	3000

typedef struct crowd {
	fswatch_t	*c_fw;
	pthread_mutex_t	c_lock;
	pthread_cond_t	c_changed;
	unsigned long	c_told[CROWD_FILES];
} crowd_t;

typedef struct member {
	crowd_t		*m_crowd;
	unsigned int	m_seed;		/* also its own number */
} member_t;

static void
crowd_path(char *path, size_t size, unsigned int file)
{
	(void) snprintf(path, size, "crowd%u", file);
}

/* One of the threads that work on the same few watches and their files. */
static void *
crowd_work(void *arg)
{
	member_t *member = arg;
	fswatch_t *fw = member->m_crowd->c_fw;
	char own[32];

	(void) snprintf(own, sizeof (own), "own%u", member->m_seed);
	for (int turn = 0; turn < CROWD_TURNS; turn++) {
		unsigned int file = rand_r(&member->m_seed) % CROWD_FILES;
		char path[32];
		int changed, err = 0;

		crowd_path(path, sizeof (path), file);
		switch (rand_r(&member->m_seed) % 5) {
		case 0:
			fswatch_remove(fw, file + 1);
			break;
		case 1:
			put(own, "text");
			CHECK("crowd", rename(own, path) == 0);
			break;
		case 2:
			err = fswatch_add(fw, file + 1, path, &changed);
			break;
		default:
			err = fswatch_check(fw, file + 1, path, &changed);
			break;
		}
		/*
		 * ENOENT: replaced while it was associated. EAGAIN: too often.
		 */
		CHECK("crowd", err == 0 || err == ENOENT || err == EAGAIN);
	}
	return (NULL);
}

/* The thread that collects events, until the watcher is stopped. */
static void *
crowd_listen(void *arg)
{
	crowd_t *crowd = arg;
	fswatch_event_t events[8];
	uint32_t n;
	int err;

	while ((err = fswatch_wait(crowd->c_fw, events, 8, &n)) == 0) {
		(void) pthread_mutex_lock(&crowd->c_lock);
		for (uint32_t i = 0; i < n; i++) {
			CHECK("crowd", events[i].fe_id >= 1 &&
			    events[i].fe_id <= CROWD_FILES);
			crowd->c_told[events[i].fe_id - 1]++;
		}
		(void) pthread_cond_broadcast(&crowd->c_changed);
		(void) pthread_mutex_unlock(&crowd->c_lock);
	}
	CHECK("crowd", err == ECANCELED);
	return (NULL);
}

/* Writes a file, and waits until that is reported. */
static void
crowd_write(crowd_t *crowd, unsigned int file)
{
	struct timespec deadline;
	unsigned long before;
	char path[32];

	crowd_path(path, sizeof (path), file);
	(void) clock_gettime(CLOCK_REALTIME, &deadline);
	deadline.tv_sec += TEST_SECONDS;
	(void) pthread_mutex_lock(&crowd->c_lock);
	before = crowd->c_told[file];
	put(path, "written");
	while (crowd->c_told[file] == before)
		CHECK("crowd", pthread_cond_timedwait(&crowd->c_changed,
		    &crowd->c_lock, &deadline) == 0);
	(void) pthread_mutex_unlock(&crowd->c_lock);
}

/* Watches that many threads have worked on at once still work after that. */
static void
check_crowd(void)
{
	crowd_t crowd = { .c_lock = PTHREAD_MUTEX_INITIALIZER,
	    .c_changed = PTHREAD_COND_INITIALIZER };
	member_t members[CROWD_THREADS];
	pthread_t threads[CROWD_THREADS], listener;

	CHECK("crowd", fswatch_open(&crowd.c_fw) == 0);
	for (unsigned int file = 0; file < CROWD_FILES; file++) {
		char path[32];

		crowd_path(path, sizeof (path), file);
		put(path, "text");
	}
	CHECK("crowd", pthread_create(&listener, NULL, crowd_listen,
	    &crowd) == 0);
	for (unsigned int i = 0; i < CROWD_THREADS; i++) {
		members[i] = (member_t){ &crowd, i + 1 };
		CHECK("crowd", pthread_create(&threads[i], NULL, crowd_work,
		    &members[i]) == 0);
	}
	for (unsigned int i = 0; i < CROWD_THREADS; i++)
		CHECK("crowd", pthread_join(threads[i], NULL) == 0);
	for (unsigned int file = 0; file < CROWD_FILES; file++) {
		char path[32];
		int changed;

		crowd_path(path, sizeof (path), file);
		CHECK("crowd", fswatch_add(crowd.c_fw, file + 1, path,
		    &changed) == 0);
		/*
		 * An event from before may still come, so one write is not
		 * enough.
		 */
		for (int i = 0; i < 3; i++)
			crowd_write(&crowd, file);
	}
	CHECK("crowd", fswatch_stop(crowd.c_fw) == 0);
	CHECK("crowd", pthread_join(listener, NULL) == 0);
	fswatch_close(crowd.c_fw);
	(void) printf("watches survive many threads at once\n");
}

int
main(int argc, char **argv)
{
	if (argc != 2 || chdir(argv[1]) != 0) {
		(void) fprintf(stderr, "usage: fswatch_test EMPTY-DIRECTORY\n");
		return (2);
	}
	/* If a thread waits for a watch for ever, the test fails. */
	(void) alarm(TEST_SECONDS);
	check_fswatch();
	check_crowd();
	(void) printf("%d checks\n", checks);
	return (0);
}
