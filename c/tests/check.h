/*
 * This Source Code Form is subject to the terms of the Mozilla Public
 * License, v. 2.0. If a copy of the MPL was not distributed with this
 * file, You can obtain one at https://mozilla.org/MPL/2.0/.
 */

/* What the tests of the C code share. Each test is a program. */

#ifndef CHECK_H
#define	CHECK_H

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static atomic_int checks;

#define	CHECK(what, cond) do {						\
	checks++;							\
	if (!(cond)) {							\
		(void) printf("FAILED %s: %s, line %d (errno %s)\n",	\
		    what, #cond, __LINE__, strerror(errno));		\
		exit(1);						\
	}								\
} while (0)

static void
put(const char *path, const char *text)
{
	FILE *f = fopen(path, "w");

	CHECK(path, f != NULL);
	CHECK(path, fputs(text, f) >= 0);
	CHECK(path, fclose(f) == 0);
}

/* Operations on files. */

static void write_it(void) {
	int fd = open("f", O_WRONLY | O_APPEND);
	CHECK("write", write(fd, "x", 1) == 1);
	(void) close(fd);
}
static void unlink_it(void) { CHECK("unlink", unlink("f") == 0); }
static void rename_over(void) {
	put("n", "new");
	CHECK("rename", rename("n", "f") == 0);
}
static void zonecfg_it(void) {
	/* As libzonecfg does: the old file has a second link meanwhile. */
	CHECK("link", link("f", ".backup") == 0);
	put("temp", "new");
	CHECK("rename", rename("temp", "f") == 0);
	CHECK("unlink", unlink(".backup") == 0);
}
static void recreate(void) {
	CHECK("unlink", unlink("f") == 0);
	put("f", "again");
}

#endif	/* CHECK_H */
