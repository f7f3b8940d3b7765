/*
 * This Source Code Form is subject to the terms of the Mozilla Public
 * License, v. 2.0. If a copy of the MPL was not distributed with this
 * file, You can obtain one at https://mozilla.org/MPL/2.0/.
 */

/*
 * fswatch: tells of changes to files, by event ports.
 *
 * A watch is a caller's number for a path. It stands until it is removed or
 * the path is gone: the one-shot associations of event ports are renewed
 * here. Every function returns 0 or an errno value, and none prints or exits.
 * What is wrong with a path is for the caller to decide.
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

/* Frees a watcher; no other call may be at work or follow. */
void fswatch_close(fswatch_t *);

/*
 * Watches a path from now on. A watch that exists is armed anew, by path:
 * *changed then tells whether the file is another one or was written since
 * it was last armed, of which no event may come. Fails, and ends the watch,
 * with the errno of lstat(2) or port_associate(3C).
 */
int fswatch_add(fswatch_t *, uint64_t id, const char *path, int *changed);

/*
 * As fswatch_add(), but leaves a watch alone whose path leads to the same
 * file as when it was armed, and that file as it was: one lstat(2).
 */
int fswatch_check(fswatch_t *, uint64_t id, const char *path, int *changed);

/* Ends a watch. An event of it that was collected before may still come. */
void fswatch_remove(fswatch_t *, uint64_t id);

/*
 * Blocks until there are changes. Each watch that an event names has been
 * armed anew before this returns, so that who reads the file now misses
 * nothing, or has ended. Returns ECANCELED after fswatch_stop().
 */
int fswatch_wait(fswatch_t *, fswatch_event_t *, uint32_t max, uint32_t *n);

/* Ends a present or the next fswatch_wait(). */
int fswatch_stop(fswatch_t *);

#endif	/* FSWATCH_H */
