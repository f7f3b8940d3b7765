/*
 * This Source Code Form is subject to the terms of the Mozilla Public
 * License, v. 2.0. If a copy of the MPL was not distributed with this
 * file, You can obtain one at https://mozilla.org/MPL/2.0/.
 */

/*
 * Tests what each operation on a file delivers through the port calls. Runs in
 * an empty directory, its only argument; prints a line for each case, and exits
 * with 1 at the first that fails.
 */

#define	_GNU_SOURCE
#include <sys/stat.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../linux/ports_inotify.h"
#include "check.h"

#define	M	FILE_MODIFIED
#define	A	FILE_ATTRIB
#define	T	FILE_TRUNC
#define	ALL	(FILE_MODIFIED | FILE_ATTRIB | FILE_TRUNC)
#define	COOKIE	((void *)77)

static file_obj_t
object_of(const char *path)
{
	file_obj_t fo;
	struct stat st;

	(void) memset(&fo, 0, sizeof (fo));
	fo.fo_name = (char *)path;
	if (stat(path, &st) == 0) {
		fo.fo_mtime = st.st_mtim;
		fo.fo_ctime = st.st_ctim;
	}
	return (fo);
}

/* The events of the next port event; 0 if none is there. */
static int
next(int port, port_event_t *pe)
{
	struct timespec none = { 0, 0 };
	unsigned int nget = 1;

	(void) memset(pe, 0, sizeof (*pe));
	if (port_getn(port, pe, 1, &nget, &none) != 0) {
		CHECK("getn", errno == ETIME);
		CHECK("getn", nget == 0);
		return (0);
	}
	CHECK("getn", nget == 1);
	return (pe->portev_events);
}

/* --- what an operation delivers --- */

static void open_trunc(void) { (void) close(open("f", O_WRONLY | O_TRUNC)); }
static void creat_trunc(void) {
	(void) close(open("f", O_WRONLY | O_CREAT | O_TRUNC, 0644));
}
static void trunc_zero(void) { CHECK("truncate", truncate("f", 0) == 0); }
static void trunc_some(void) { CHECK("truncate", truncate("f", 2) == 0); }
static void touch_it(void) {
	struct timespec times[2] = { { 1000, 5 }, { 1000, 5 } };
	CHECK("utimes", utimensat(AT_FDCWD, "f", times, 0) == 0);
}
static void chmod_it(void) { CHECK("chmod", chmod("f", 0600) == 0); }
static void link_it(void) { CHECK("link", link("f", "g") == 0); }
static void unlink_other(void) { CHECK("unlink", unlink("other") == 0); }
static void rename_away(void) { CHECK("rename", rename("f", "h") == 0); }
static void unlink_open(void) {
	int fd = open("f", O_RDONLY);
	CHECK("unlink", unlink("f") == 0);
	(void) close(fd);
}
static void read_it(void) {
	char c;
	int fd = open("f", O_RDONLY);
	CHECK("read", read(fd, &c, 1) == 1);
	(void) close(fd);
}
static void create_other(void) { put("brandnew", ""); }
static void mkdir_it(void) { CHECK("mkdir", mkdir("sub", 0755) == 0); }

typedef struct row {
	const char *name;
	void (*operate)(void);
	int file;	/* what a watch of the file gets, if it asks for all */
	int directory;	/* what a watch of its directory gets */
} row_t;

static const row_t rows[] = {
	{ "write", write_it, M | A, 0 },
	{ "O_TRUNC", open_trunc, M | A | T, 0 },
	{ "O_CREAT|O_TRUNC", creat_trunc, M | A | T, 0 },
	{ "truncate to 0", trunc_zero, M | A | T, 0 },
	{ "truncate to 2", trunc_some, M | A, 0 },
	{ "utimes", touch_it, M | A, 0 },
	{ "chmod", chmod_it, A, 0 },
	{ "link", link_it, A, M | A },
	{ "read", read_it, 0, 0 },
	{ "unlink", unlink_it, FILE_DELETE, M | A },
	{ "unlink another link", unlink_other, A, M | A },
	{ "unlink while open", unlink_open, FILE_DELETE, M | A },
	{ "rename away", rename_away, FILE_RENAME_FROM, M | A },
	{ "rename over", rename_over, FILE_RENAME_TO, M | A },
	{ "zonecfg's rename", zonecfg_it, FILE_RENAME_TO, M | A },
	{ "unlink and create", recreate, FILE_DELETE, M | A },
	{ "create another", create_other, 0, M | A | T },
	{ "mkdir", mkdir_it, 0, M | A },
};

static void
lay_out(const row_t *row)
{
	CHECK(row->name, system("rm -rf ./* ./.backup") == 0);
	put("f", "text");
	if (row->operate == unlink_other)
		CHECK(row->name, link("f", "other") == 0);
}

/*
 * Checks that the bits that must come do, and no others. FILE_TRUNC of a
 * directory is left out: here it does not distinguish a new file from a second
 * link.
 */
static void
check_row(const row_t *row, int requested)
{
	int port = port_create();
	file_obj_t file, directory;
	port_event_t pe;
	int got_file = 0, got_directory = 0, events;
	int wanted = row->file & (requested | FILE_EXCEPTION);

	CHECK(row->name, port >= 0);
	lay_out(row);
	file = object_of("f");
	directory = object_of(".");
	CHECK(row->name, port_associate(port, PORT_SOURCE_FILE,
	    (uintptr_t)&file, requested, COOKIE) == 0);
	CHECK(row->name, port_associate(port, PORT_SOURCE_FILE,
	    (uintptr_t)&directory, requested, COOKIE) == 0);
	CHECK(row->name, next(port, &pe) == 0);
	row->operate();
	while ((events = next(port, &pe)) != 0) {
		CHECK(row->name, pe.portev_source == PORT_SOURCE_FILE);
		CHECK(row->name, pe.portev_user == COOKIE);
		if (pe.portev_object == (uintptr_t)&file) {
			CHECK(row->name, got_file == 0);
			got_file = events;
		} else {
			CHECK(row->name, pe.portev_object ==
			    (uintptr_t)&directory);
			CHECK(row->name, got_directory == 0);
			got_directory = events;
		}
	}
	(void) printf("%-22s file %08x directory %08x\n", row->name, got_file,
	    got_directory);
	CHECK(row->name, got_file == wanted);
	CHECK(row->name, (got_directory & ~T) ==
	    (row->directory & requested & ~T));
	CHECK(row->name, port_close(port) == 0);
}

/* --- the rules of an association --- */

static void
check_rules(void)
{
	int port = port_create();
	port_event_t pe, list[4];
	file_obj_t fo, twin;
	unsigned int nget;
	struct timespec none = { 0, 0 };

	(void) system("rm -rf ./*");
	put("f", "text");
	fo = object_of("f");

	/* One-shot: nothing more after delivery, until associated again. */
	CHECK("one-shot", port_associate(port, PORT_SOURCE_FILE,
	    (uintptr_t)&fo, M, COOKIE) == 0);
	write_it();
	write_it();
	CHECK("one-shot", next(port, &pe) == M);
	write_it();
	CHECK("one-shot", next(port, &pe) == 0);

	/* It was written since, so the stamps from before differ. */
	CHECK("stamps", port_associate(port, PORT_SOURCE_FILE,
	    (uintptr_t)&fo, M, COOKIE) == 0);
	touch_it();
	CHECK("stamps", next(port, &pe) == M);
	fo = object_of("f");
	CHECK("stamps", port_associate(port, PORT_SOURCE_FILE,
	    (uintptr_t)&fo, M, COOKIE) == 0);
	CHECK("stamps", next(port, &pe) == 0);
	fo.fo_mtime.tv_sec -= 5;
	CHECK("stamps", port_associate(port, PORT_SOURCE_FILE,
	    (uintptr_t)&fo, M, COOKIE) == 0);
	CHECK("stamps", next(port, &pe) == M);
	/* All-zero stamps are not compared; others only if asked for. */
	(void) memset(&fo.fo_mtime, 0, sizeof (fo.fo_mtime));
	fo.fo_ctime.tv_sec -= 5;
	CHECK("stamps", port_associate(port, PORT_SOURCE_FILE,
	    (uintptr_t)&fo, M, COOKIE) == 0);
	CHECK("stamps", next(port, &pe) == 0);

	/* Associating again takes back an event that was not collected. */
	write_it();
	fo = object_of("f");
	CHECK("again", port_associate(port, PORT_SOURCE_FILE,
	    (uintptr_t)&fo, M, COOKIE) == 0);
	CHECK("again", next(port, &pe) == 0);

	/* Two objects may watch one path; each has its own event. */
	twin = object_of("f");
	CHECK("twin", port_associate(port, PORT_SOURCE_FILE,
	    (uintptr_t)&twin, M, &twin) == 0);
	write_it();
	nget = 2;
	CHECK("twin", port_getn(port, list, 4, &nget, &none) == 0);
	CHECK("twin", nget == 2);

	/* Dissociating drops an event that was not collected. */
	fo = object_of("f");
	CHECK("dissociate", port_associate(port, PORT_SOURCE_FILE,
	    (uintptr_t)&fo, M, COOKIE) == 0);
	write_it();
	CHECK("dissociate", port_dissociate(port, PORT_SOURCE_FILE,
	    (uintptr_t)&fo) == 0);
	CHECK("dissociate", next(port, &pe) == 0);
	CHECK("dissociate", port_dissociate(port, PORT_SOURCE_FILE,
	    (uintptr_t)&fo) == -1 && errno == ENOENT);

	/*
	 * An exception comes even if not requested, and ends the association.
	 */
	fo = object_of("f");
	CHECK("exception", port_associate(port, PORT_SOURCE_FILE,
	    (uintptr_t)&fo, A, COOKIE) == 0);
	rename_over();
	CHECK("exception", next(port, &pe) == FILE_RENAME_TO);
	CHECK("exception", port_dissociate(port, PORT_SOURCE_FILE,
	    (uintptr_t)&fo) == -1 && errno == ENOENT);

	/* Errors. */
	fo.fo_name = "nothing";
	CHECK("errors", port_associate(port, PORT_SOURCE_FILE,
	    (uintptr_t)&fo, M, NULL) == -1 && errno == ENOENT);
	fo.fo_name = "f/below";
	CHECK("errors", port_associate(port, PORT_SOURCE_FILE,
	    (uintptr_t)&fo, M, NULL) == -1 && errno == ENOTDIR);
	fo.fo_name = "f";
	CHECK("errors", port_associate(port, PORT_SOURCE_FILE,
	    (uintptr_t)&fo, FILE_DELETE, NULL) == -1 && errno == EINVAL);
	CHECK("errors", port_associate(port, 4, (uintptr_t)&fo, M, NULL) ==
	    -1 && errno == EINVAL);
	CHECK("errors", port_associate(-5, PORT_SOURCE_FILE, (uintptr_t)&fo, M,
	    NULL) == -1 && errno == EBADFD);

	/* An event that we send ourselves. */
	CHECK("send", port_send(port, 9, COOKIE) == 0);
	CHECK("send", next(port, &pe) == 9);
	CHECK("send", pe.portev_source == PORT_SOURCE_USER);
	CHECK("send", pe.portev_user == COOKIE);

	/* A directory that is removed with the file in it. */
	mkdir_it();
	put("sub/x", "x");
	twin = object_of("sub");
	fo = object_of("sub/x");
	CHECK("dir", port_associate(port, PORT_SOURCE_FILE, (uintptr_t)&twin,
	    M, COOKIE) == 0);
	CHECK("dir", port_associate(port, PORT_SOURCE_FILE, (uintptr_t)&fo,
	    M, COOKIE) == 0);
	CHECK("dir", system("rm -r sub") == 0);
	nget = 2;
	CHECK("dir", port_getn(port, list, 4, &nget, &none) == 0);
	for (unsigned int i = 0; i < 2; i++) {
		int gone = list[i].portev_events & (FILE_DELETE | M);
		CHECK("dir", gone != 0);
	}
	CHECK("dir", port_close(port) == 0);
	CHECK("close", port_close(port) == -1 && errno == EBADF);
	(void) printf("the rules of an association hold\n");
}

/* More events than inotify's queue holds. */
static void
check_overflow(void)
{
	int port = port_create();
	file_obj_t fo, quiet;
	port_event_t pe;
	FILE *limit = fopen("/proc/sys/fs/inotify/max_queued_events", "r");
	unsigned int most = 0;

	(void) system("rm -rf ./*");
	CHECK("overflow", limit != NULL && fscanf(limit, "%u", &most) == 1);
	(void) fclose(limit);
	put("f", "text");
	put("quiet", "text");
	fo = object_of("f");
	quiet = object_of("quiet");
	/* The renames below do not concern `f`: they only fill the queue. */
	CHECK("overflow", port_associate(port, PORT_SOURCE_FILE,
	    (uintptr_t)&quiet, M, &quiet) == 0);
	CHECK("overflow", port_associate(port, PORT_SOURCE_FILE,
	    (uintptr_t)&fo, M, &fo) == 0);
	for (unsigned int i = 0; i < most; i++) {
		CHECK("overflow", rename("quiet", "aside") == 0);
		CHECK("overflow", rename("aside", "quiet") == 0);
	}
	touch_it();
	/*
	 * Whatever else is reported, the write whose event was lost is found.
	 */
	for (;;) {
		CHECK("overflow", next(port, &pe) != 0);
		if (pe.portev_user == &fo)
			break;
	}
	CHECK("overflow", (pe.portev_events & M) != 0);
	CHECK("overflow", port_close(port) == 0);
	(void) printf("an overflow of %u events loses no change\n", most);
}

/* Row 74: the cookie and the name are those of the first association. */
static void
check_row_74_first_cookie_stays(void)
{
	int port = port_create();
	struct timespec later[2] = { { 5, 0 }, { 6, 0 } };
	file_obj_t fo;
	port_event_t pe;

	(void) system("rm -rf ./*");
	put("f", "text");
	fo = object_of("f");
	CHECK("row 74", port_associate(port, PORT_SOURCE_FILE, (uintptr_t)&fo,
	    M, COOKIE) == 0);
	CHECK("row 74", port_associate(port, PORT_SOURCE_FILE, (uintptr_t)&fo,
	    M, &port) == 0);
	touch_it();
	CHECK("row 74", next(port, &pe) == M);
	CHECK("row 74", pe.portev_user == COOKIE);
	/*
	 * The same holds by another name of the same file. A change of that
	 * name only comes as a change of attributes, and so not at all here.
	 */
	CHECK("row 74", rename("f", "g") == 0);
	fo = object_of("g");
	CHECK("row 74", port_associate(port, PORT_SOURCE_FILE, (uintptr_t)&fo,
	    M, &port) == 0);
	CHECK("row 74", unlink("g") == 0);
	CHECK("row 74", next(port, &pe) == 0);
	/* Another file in its place gets a new association. */
	put("g", "other");
	fo = object_of("g");
	CHECK("row 74", port_associate(port, PORT_SOURCE_FILE, (uintptr_t)&fo,
	    M, &port) == 0);
	CHECK("row 74", utimensat(AT_FDCWD, "g", later, 0) == 0);
	CHECK("row 74", next(port, &pe) == M);
	CHECK("row 74", pe.portev_user == &port);
	CHECK("row 74", unlink("g") == 0);
	CHECK("row 74", port_close(port) == 0);
	(void) printf("row 74: the first cookie stays\n");
}

/* Row 75: at the port's limit, exceptions are lost. */
static void
check_row_75_exceptions_are_lost_at_the_limit(void)
{
	file_obj_t fo, twin, third;
	port_event_t pe;
	int port;

	(void) system("rm -rf ./*");
	CHECK("row 75", setenv("PROCESS_MAX_PORT_EVENTS", "2", 1) == 0);
	port = port_create();
	CHECK("row 75", unsetenv("PROCESS_MAX_PORT_EVENTS") == 0);
	put("f", "text");
	put("g", "text");
	put("h", "text");
	fo = object_of("f");
	twin = object_of("g");
	third = object_of("h");
	CHECK("row 75", port_associate(port, PORT_SOURCE_FILE, (uintptr_t)&fo,
	    M, COOKIE) == 0);
	CHECK("row 75", unlink("f") == 0);
	CHECK("row 75", next(port, &pe) == FILE_DELETE);
	put("f", "again");
	fo = object_of("f");
	CHECK("row 75", port_associate(port, PORT_SOURCE_FILE, (uintptr_t)&fo,
	    M, COOKIE) == 0);
	CHECK("row 75", port_associate(port, PORT_SOURCE_FILE, (uintptr_t)&twin,
	    M, COOKIE) == 0);
	CHECK("row 75", port_associate(port, PORT_SOURCE_FILE,
	    (uintptr_t)&third, M, COOKIE) == -1 && errno == EAGAIN);
	/* A write uses the association's own event. */
	touch_it();
	CHECK("row 75", next(port, &pe) == M);
	CHECK("row 75", port_associate(port, PORT_SOURCE_FILE, (uintptr_t)&twin,
	    M, COOKIE) == 0);
	CHECK("row 75", rename("g", "f") == 0);
	CHECK("row 75", next(port, &pe) == 0);
	/* The association that was lost takes no room any more. */
	CHECK("row 75", port_associate(port, PORT_SOURCE_FILE,
	    (uintptr_t)&third, M, COOKIE) == 0);
	CHECK("row 75", port_close(port) == 0);
	(void) printf("row 75: exceptions are lost at the limit\n");
}

static void
on_alarm(int signal)
{
	(void) signal;
}

/* Row 76: a signal leaves nget and the list as they were. */
static void
check_row_76_a_signal_leaves_the_list(void)
{
	int port = port_create();
	struct sigaction action;
	port_event_t list[4];
	unsigned int nget = 2;

	(void) memset(&action, 0, sizeof (action));
	action.sa_handler = on_alarm;
	CHECK("row 76", sigaction(SIGALRM, &action, NULL) == 0);
	CHECK("row 76", port_send(port, 9, COOKIE) == 0);
	(void) memset(list, 0xab, sizeof (list));
	CHECK("row 76", ualarm(20000, 20000) == 0);
	/* One event waits, and two are wanted. */
	CHECK("row 76", port_getn(port, list, 4, &nget, NULL) == -1);
	CHECK("row 76", errno == EINTR && nget == 2);
	(void) ualarm(0, 0);
	CHECK("row 76", list[0].portev_events == (int)0xabababab);
	/* The event is still there. */
	CHECK("row 76", next(port, &list[0]) == 9);
	CHECK("row 76", port_close(port) == 0);
	(void) printf("row 76: a signal leaves the caller's list\n");
}

/* A directory that a thread associates again and again. */
typedef struct busy {
	int		b_port;
	atomic_int	b_over;
} busy_t;

static void *
associate_on_and_on(void *arg)
{
	busy_t *busy = arg;

	while (!busy->b_over) {
		file_obj_t fo = object_of("d");

		CHECK("no gap", port_associate(busy->b_port, PORT_SOURCE_FILE,
		    (uintptr_t)&fo, M, NULL) == 0);
		/* Its address will soon be that of another object. */
		(void) port_dissociate(busy->b_port, PORT_SOURCE_FILE,
		    (uintptr_t)&fo);
	}
	return (NULL);
}

/* A change is reported even while the directory is associated again. */
static void
check_no_gap(void)
{
	busy_t busy = { port_create(), 0 };
	struct timespec deadline = { 60, 0 };
	pthread_t thread;

	(void) system("rm -rf ./*");
	CHECK("no gap", mkdir("d", 0755) == 0);
	put("d/f", "text");
	CHECK("no gap", pthread_create(&thread, NULL, associate_on_and_on,
	    &busy) == 0);
	for (int i = 0; i < 5000; i++) {
		file_obj_t fo = object_of("d/f");
		port_event_t pe;

		CHECK("no gap", port_associate(busy.b_port, PORT_SOURCE_FILE,
		    (uintptr_t)&fo, M, &fo) == 0);
		put("d/t", "text");
		CHECK("no gap", rename("d/t", "d/f") == 0);
		do {
			unsigned int nget = 1;

			CHECK("no gap", port_getn(busy.b_port, &pe, 1, &nget,
			    &deadline) == 0);
		} while (pe.portev_user != &fo);
		CHECK("no gap", pe.portev_events == FILE_RENAME_TO);
	}
	busy.b_over = 1;
	CHECK("no gap", pthread_join(thread, NULL) == 0);
	CHECK("no gap", port_close(busy.b_port) == 0);
	(void) printf("nothing is lost while a directory is associated\n");
}

int
main(int argc, char **argv)
{
	if (argc != 2 || chdir(argv[1]) != 0) {
		(void) fprintf(stderr, "usage: ports_test EMPTY-DIRECTORY\n");
		return (2);
	}
	for (size_t i = 0; i < sizeof (rows) / sizeof (rows[0]); i++) {
		check_row(&rows[i], ALL);
		/* What fswatch asks for. */
		check_row(&rows[i], M | T);
	}
	check_rules();
	check_row_74_first_cookie_stays();
	check_row_75_exceptions_are_lost_at_the_limit();
	check_row_76_a_signal_leaves_the_list();
	check_overflow();
	check_no_gap();
	(void) printf("%d checks\n", checks);
	return (0);
}
