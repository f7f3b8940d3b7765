/*
 * This Source Code Form is subject to the terms of the Mozilla Public
 * License, v. 2.0. If a copy of the MPL was not distributed with this
 * file, You can obtain one at https://mozilla.org/MPL/2.0/.
 */

/*
 * See fswatch.h for what this is. It uses only the API of event ports; on
 * systems without event ports, c/linux supplies that API.
 *
 * STRUCTURES. A watcher has one port and a table of watches, indexed by the
 * caller's number. The port event's cookie is that number, never a pointer,
 * because an event may be collected just before its watch is removed. The
 * kernel knows a file_obj_t by its address, so it lives inside its watch, which
 * never moves.
 *
 * LOCKING. fw_lock guards the table, and which watches are held. It is never
 * held across a system call. A thread holds a watch while it arms it, and no
 * other thread can hold it then: a file system that hangs delays only the
 * threads that need that one file. The table has one reference to a watch; each
 * thread that holds the watch, or waits to hold it, has another.
 *
 * PROTOCOL. An association is one-shot. After an event was collected, nothing
 * watches the file until it is associated again, so the order is: collect,
 * stat, associate with the stamps of that stat, report. The kernel compares the
 * stamps, and so finds a change between stat and associate. A second stat finds
 * what that comparison does not see (another file with the same mtime), and an
 * associate that succeeds without watching (the file was replaced while it was
 * hooked). The loop ends when both agree.
 */

#include <sys/types.h>
#include <sys/stat.h>
#include <errno.h>
#include <pthread.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#ifdef __sun
#include <port.h>
#include <unistd.h>
#define	port_close(p)	close(p)
#else
#include "linux/ports_inotify.h"
#endif

#include "fswatch.h"

/* The values and layouts that all of this relies on. */
#define	PIN(what, value) \
	_Static_assert((what) == (value), #what " is not " #value)

PIN(PORT_SOURCE_USER, 3);
PIN(PORT_SOURCE_FILE, 7);
PIN(FILE_MODIFIED, 0x00000002);
PIN(FILE_TRUNC, 0x00100000);
PIN(FILE_NOFOLLOW, 0x10000000);
PIN(FILE_DELETE, 0x00000010);
PIN(FILE_RENAME_TO, 0x00000020);
PIN(FILE_RENAME_FROM, 0x00000040);
PIN(UNMOUNTED, 0x20000000);
PIN(MOUNTEDOVER, 0x40000000);
PIN(FILE_EXCEPTION, 0x60000070);
PIN(sizeof (port_event_t), 24);
PIN(offsetof(port_event_t, portev_source), 4);
PIN(offsetof(port_event_t, portev_object), 8);
PIN(offsetof(port_event_t, portev_user), 16);
PIN(sizeof (file_obj_t), 80);
PIN(offsetof(file_obj_t, fo_mtime), 16);
PIN(offsetof(file_obj_t, fo_ctime), 32);
PIN(offsetof(file_obj_t, fo_name), 72);

/* After this many tries, a file that changes all the time counts as watched. */
#define	ARM_TRIES	16
#define	EVENTS_MAX	256
#define	BUCKETS_FIRST	64

/* Identifies one state of a file. */
typedef struct stamp {
	dev_t		s_dev;
	ino_t		s_ino;
	off_t		s_size;
	struct timespec	s_mtime;
	struct timespec	s_ctime;
} stamp_t;

/*
 * There is one for each watched file, so it is kept small. The stamp with which
 * it was last armed is in w_dev, w_ino, w_size and the times in w_object, which
 * the kernel no longer needs.
 */
typedef struct watch {
	struct watch	*w_next;	/* in its bucket */
	uint64_t	w_id;
	uint32_t	w_refs;		/* guarded by fw_lock */
	char		w_held;		/* by fw_lock: a thread holds it */
	char		w_ended;	/* no longer in the table */
	char		w_armed;	/* it was armed, so it has a stamp */
	dev_t		w_dev;
	ino_t		w_ino;
	off_t		w_size;
	file_obj_t	w_object;
	char		w_path[];
} watch_t;

struct fswatch {
	int		fw_port;
	pthread_mutex_t	fw_lock;
	pthread_cond_t	fw_released;	/* a watch is no longer held */
	watch_t		**fw_buckets;
	size_t		fw_nbuckets;	/* a power of two */
	size_t		fw_count;
};

static void
stamp_of(const struct stat *st, stamp_t *stamp)
{
	stamp->s_dev = st->st_dev;
	stamp->s_ino = st->st_ino;
	stamp->s_size = st->st_size;
	stamp->s_mtime = st->st_mtim;
	stamp->s_ctime = st->st_ctim;
}

static int
same_time(const struct timespec *a, const struct timespec *b)
{
	return (a->tv_sec == b->tv_sec && a->tv_nsec == b->tv_nsec);
}

static int
same_file(const stamp_t *a, const stamp_t *b)
{
	return (a->s_dev == b->s_dev && a->s_ino == b->s_ino);
}

static int
same_stamp(const stamp_t *a, const stamp_t *b)
{
	return (same_file(a, b) && a->s_size == b->s_size &&
	    same_time(&a->s_mtime, &b->s_mtime) &&
	    same_time(&a->s_ctime, &b->s_ctime));
}

/* The stamp with which a watch was last armed. */
static stamp_t
armed_stamp(const watch_t *w)
{
	stamp_t stamp = { w->w_dev, w->w_ino, w->w_size,
	    w->w_object.fo_mtime, w->w_object.fo_ctime };

	return (stamp);
}

static void
set_armed_stamp(watch_t *w, const stamp_t *stamp)
{
	w->w_dev = stamp->s_dev;
	w->w_ino = stamp->s_ino;
	w->w_size = stamp->s_size;
	w->w_object.fo_mtime = stamp->s_mtime;
	w->w_object.fo_ctime = stamp->s_ctime;
	w->w_armed = 1;
}

static watch_t **
bucket_of(fswatch_t *fw, uint64_t id)
{
	return (&fw->fw_buckets[id & (fw->fw_nbuckets - 1)]);
}

/* Where the pointer to watch `id` is, or would be. Needs fw_lock. */
static watch_t **
find(fswatch_t *fw, uint64_t id)
{
	watch_t **at = bucket_of(fw, id);

	while (*at != NULL && (*at)->w_id != id)
		at = &(*at)->w_next;
	return (at);
}

/* Doubles the table. If that fails, the chains get longer. Needs fw_lock. */
static void
grow(fswatch_t *fw)
{
	size_t nold = fw->fw_nbuckets;
	watch_t **old = fw->fw_buckets;
	watch_t **buckets = calloc(nold * 2, sizeof (*buckets));

	if (buckets == NULL)
		return;
	fw->fw_buckets = buckets;
	fw->fw_nbuckets = nold * 2;
	for (size_t i = 0; i < nold; i++) {
		watch_t *w = old[i];

		while (w != NULL) {
			watch_t *next = w->w_next;
			watch_t **at = bucket_of(fw, w->w_id);

			w->w_next = *at;
			*at = w;
			w = next;
		}
	}
	free(old);
}

/*
 * Holds a watch for the caller, once no other thread holds it. The watch may
 * have ended by then. Needs fw_lock.
 */
static void
take(fswatch_t *fw, watch_t *w)
{
	w->w_refs++;
	while (w->w_held)
		(void) pthread_cond_wait(&fw->fw_released, &fw->fw_lock);
	w->w_held = 1;
}

static void
watch_release(fswatch_t *fw, watch_t *w)
{
	uint32_t refs;

	(void) pthread_mutex_lock(&fw->fw_lock);
	w->w_held = 0;
	refs = --w->w_refs;
	/* References besides the table's belong to threads that wait. */
	if (refs > (w->w_ended ? 0 : 1))
		(void) pthread_cond_broadcast(&fw->fw_released);
	(void) pthread_mutex_unlock(&fw->fw_lock);
	if (refs == 0)
		free(w);
}

/*
 * Holds the watch `id` for the caller alone, until it is released. Returns NULL
 * if there is no such watch.
 */
static watch_t *
watch_hold(fswatch_t *fw, uint64_t id)
{
	watch_t *w;

	(void) pthread_mutex_lock(&fw->fw_lock);
	w = *find(fw, id);
	if (w != NULL)
		take(fw, w);
	(void) pthread_mutex_unlock(&fw->fw_lock);
	return (w);
}

/* Removes a watch that the caller holds from the table and the port. */
static void
watch_end(fswatch_t *fw, watch_t *w)
{
	watch_t **at;

	if (w->w_ended)
		return;
	w->w_ended = 1;
	/* ENOENT: the kernel has already ended the association. */
	(void) port_dissociate(fw->fw_port, PORT_SOURCE_FILE,
	    (uintptr_t)&w->w_object);
	(void) pthread_mutex_lock(&fw->fw_lock);
	at = find(fw, w->w_id);
	if (*at == w) {
		*at = w->w_next;
		fw->fw_count--;
		w->w_refs--;
	}
	(void) pthread_mutex_unlock(&fw->fw_lock);
}

/*
 * Associates a watch that the caller holds with the file that its path leads to
 * now. If the caller has just looked at that file, `seen` is what it saw.
 */
static int
watch_arm(fswatch_t *fw, watch_t *w, const struct stat *seen)
{
	struct stat st;
	stamp_t before, after;
	int tries;

	for (tries = 0; tries < ARM_TRIES; tries++) {
		if (tries == 0 && seen != NULL)
			st = *seen;
		else if (lstat(w->w_path, &st) != 0)
			return (errno);
		stamp_of(&st, &before);
		(void) memset(&w->w_object, 0, sizeof (w->w_object));
		w->w_object.fo_name = w->w_path;
		w->w_object.fo_mtime = st.st_mtim;
		w->w_object.fo_ctime = st.st_ctim;
		if (port_associate(fw->fw_port, PORT_SOURCE_FILE,
		    (uintptr_t)&w->w_object,
		    FILE_MODIFIED | FILE_TRUNC | FILE_NOFOLLOW,
		    (void *)(uintptr_t)w->w_id) != 0)
			return (errno);
		if (lstat(w->w_path, &st) != 0)
			return (errno);
		stamp_of(&st, &after);
		if (same_stamp(&before, &after))
			break;
	}
	/*
	 * The file is written faster than we can look. If it is still the same
	 * file, it is watched.
	 */
	if (tries == ARM_TRIES && !same_file(&before, &after))
		return (EAGAIN);
	set_armed_stamp(w, &after);
	return (0);
}

int
fswatch_open(fswatch_t **out)
{
	fswatch_t *fw = calloc(1, sizeof (*fw));
	int err;

	if (fw == NULL)
		return (ENOMEM);
	fw->fw_nbuckets = BUCKETS_FIRST;
	fw->fw_buckets = calloc(BUCKETS_FIRST, sizeof (*fw->fw_buckets));
	if (fw->fw_buckets == NULL) {
		free(fw);
		return (ENOMEM);
	}
	if ((fw->fw_port = port_create()) < 0) {
		err = errno;
		free(fw->fw_buckets);
		free(fw);
		return (err);
	}
	(void) pthread_mutex_init(&fw->fw_lock, NULL);
	(void) pthread_cond_init(&fw->fw_released, NULL);
	*out = fw;
	return (0);
}

void
fswatch_close(fswatch_t *fw)
{
	(void) port_close(fw->fw_port);
	for (size_t i = 0; i < fw->fw_nbuckets; i++) {
		watch_t *w = fw->fw_buckets[i];

		while (w != NULL) {
			watch_t *next = w->w_next;

			free(w);
			w = next;
		}
	}
	(void) pthread_cond_destroy(&fw->fw_released);
	(void) pthread_mutex_destroy(&fw->fw_lock);
	free(fw->fw_buckets);
	free(fw);
}

/*
 * Makes a watch, and holds it. If another thread has made it meanwhile, holds
 * that one.
 */
static int
watch_create(fswatch_t *fw, uint64_t id, const char *path, watch_t **out)
{
	size_t size = strlen(path) + 1;
	watch_t *w = calloc(1, sizeof (*w) + size);
	watch_t **at;

	if (w == NULL)
		return (ENOMEM);
	(void) memcpy(w->w_path, path, size);
	w->w_id = id;
	w->w_refs = 1;
	(void) pthread_mutex_lock(&fw->fw_lock);
	at = find(fw, id);
	if (*at != NULL) {
		/* Another thread was quicker. */
		free(w);
		w = *at;
	} else {
		*at = w;
		if (++fw->fw_count > fw->fw_nbuckets)
			grow(fw);
	}
	take(fw, w);
	(void) pthread_mutex_unlock(&fw->fw_lock);
	*out = w;
	return (0);
}

/* Whether the path leads to the file that was armed, unchanged since then. */
static int
is_unchanged(const watch_t *w)
{
	struct stat st;
	stamp_t now, armed = armed_stamp(w);

	if (lstat(w->w_path, &st) != 0)
		return (0);
	stamp_of(&st, &now);
	return (same_stamp(&now, &armed));
}

static int
add(fswatch_t *fw, uint64_t id, const char *path, int anew, int *changed)
{
	struct stat seen;
	int looked = 0;
	watch_t *w;
	int err;

	*changed = 0;
	do {
		w = watch_hold(fw, id);
		if (w == NULL) {
			/* A path that is missing needs no watch. */
			if (lstat(path, &seen) != 0)
				return (errno);
			looked = 1;
			if ((err = watch_create(fw, id, path, &w)) != 0)
				return (err);
		}
		if (w->w_ended) {
			/* It ended while we waited for it: make a new one. */
			watch_release(fw, w);
			w = NULL;
		}
	} while (w == NULL);

	if (strcmp(w->w_path, path) != 0) {
		err = EINVAL;
	} else if (!anew && w->w_armed && is_unchanged(w)) {
		err = 0;
	} else {
		stamp_t before = armed_stamp(w), now;
		int armed = w->w_armed;

		err = watch_arm(fw, w, looked && !armed ? &seen : NULL);
		now = armed_stamp(w);
		if (err != 0)
			watch_end(fw, w);
		else
			*changed = armed && !same_stamp(&before, &now);
	}
	watch_release(fw, w);
	return (err);
}

int
fswatch_add(fswatch_t *fw, uint64_t id, const char *path, int *changed)
{
	return (add(fw, id, path, 1, changed));
}

int
fswatch_check(fswatch_t *fw, uint64_t id, const char *path, int *changed)
{
	return (add(fw, id, path, 0, changed));
}

void
fswatch_remove(fswatch_t *fw, uint64_t id)
{
	watch_t *w = watch_hold(fw, id);

	if (w == NULL)
		return;
	watch_end(fw, w);
	watch_release(fw, w);
}

int
fswatch_wait(fswatch_t *fw, fswatch_event_t *events, uint32_t max, uint32_t *n)
{
	port_event_t collected[EVENTS_MAX];
	int stopped = 0;

	*n = 0;
	if (max == 0)
		return (EINVAL);
	if (max > EVENTS_MAX)
		max = EVENTS_MAX;
	while (*n == 0 && !stopped) {
		unsigned int nget = 1;

		/*
		 * EINTR leaves nget as it was, and there is no event. ETIME
		 * does not occur without a timeout. All other errors are final,
		 * such as EBADFD of a port that was closed meanwhile.
		 */
		if (port_getn(fw->fw_port, collected, max, &nget, NULL) != 0) {
			if (errno != EINTR)
				return (errno);
			continue;
		}
		for (unsigned int i = 0; i < nget; i++) {
			port_event_t *pe = &collected[i];
			fswatch_event_t *fe = &events[*n];
			watch_t *w;

			if (pe->portev_source == PORT_SOURCE_USER)
				stopped = 1;
			if (pe->portev_source != PORT_SOURCE_FILE)
				continue;
			w = watch_hold(fw, (uintptr_t)pe->portev_user);
			if (w == NULL)
				continue;
			if (!w->w_ended) {
				stamp_t before = armed_stamp(w), now;

				fe->fe_id = w->w_id;
				fe->fe_changes = pe->portev_events;
				fe->fe_gone = watch_arm(fw, w, NULL);
				now = armed_stamp(w);
				fe->fe_exchanged = (pe->portev_events &
				    FILE_EXCEPTION) != 0 ||
				    !same_file(&before, &now);
				if (fe->fe_gone != 0)
					watch_end(fw, w);
				(*n)++;
			}
			watch_release(fw, w);
		}
	}
	/* What was collected with the stop is not worth reporting. */
	return (stopped ? ECANCELED : 0);
}

int
fswatch_stop(fswatch_t *fw)
{
	return (port_send(fw->fw_port, 1, NULL) == 0 ? 0 : errno);
}
