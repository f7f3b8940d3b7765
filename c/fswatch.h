/*
 * This Source Code Form is subject to the terms of the Mozilla Public
 * License, v. 2.0. If a copy of the MPL was not distributed with this
 * file, You can obtain one at https://mozilla.org/MPL/2.0/.
 */

/*
 * fswatch: reports changes to files, by event ports.
 *
 * A watch is a path with a number that the caller has chosen. It lasts until it
 * is removed or the path is gone: the one-shot associations of event ports are
 * renewed here. Every function returns 0 or an errno value, and none prints or
 * exits. The caller decides what to do about an error of a path.
 */

#ifndef FSWATCH_H
#define	FSWATCH_H

#include <stdint.h>

typedef struct fswatch fswatch_t;

typedef struct fswatch_event {
	uint64_t	fe_id;		/* the caller's number */
	int		fe_changes;	/* FILE_* bits of the port event */
	int		fe_exchanged;	/* the path leads to another file */
	int		fe_gone;	/* 0, or why the watch has ended */
} fswatch_event_t;

/* Makes a watcher without watches. */
int fswatch_open(fswatch_t **);

/* Frees a watcher; no other call may be running or follow. */
void fswatch_close(fswatch_t *);

/*
 * Watches a path from now on. A watch that exists is armed again, by its path.
 * Then *changed says whether the file was replaced or written since the watch
 * was last armed; no event may come for that. A failure ends the watch, and
 * returns the errno of lstat(2) or port_associate(3C).
 */
int fswatch_add(fswatch_t *, uint64_t id, const char *path, int *changed);

/*
 * As fswatch_add(), but leaves a watch alone if its path leads to the same file
 * as when it was armed, and the file has not changed. That costs one lstat(2).
 */
int fswatch_check(fswatch_t *, uint64_t id, const char *path, int *changed);

/* Ends a watch. An event that was collected before may still be returned. */
void fswatch_remove(fswatch_t *, uint64_t id);

/*
 * Blocks until there are changes. Each watch that an event names either has
 * ended, or has been armed again before this returns, so that a caller that
 * reads the file now misses nothing. Returns ECANCELED after fswatch_stop().
 */
int fswatch_wait(fswatch_t *, fswatch_event_t *, uint32_t max, uint32_t *n);

/* Ends the fswatch_wait() that is going on, or the next one. */
int fswatch_stop(fswatch_t *);

#endif	/* FSWATCH_H */
