/*
 * This Source Code Form is subject to the terms of the Mozilla Public
 * License, v. 2.0. If a copy of the MPL was not distributed with this
 * file, You can obtain one at https://mozilla.org/MPL/2.0/.
 */

/*
 * The part of illumos' <port.h> that fswatch.c uses: names, values and layouts
 * as in port_create(3C), port_associate(3C), port_get(3C) and port_send(3C). On
 * Linux, ports_inotify.c supplies what is declared here. Where there is no
 * illumos, the C code is checked against this file; on illumos, the system's
 * own header is used.
 */

#ifndef _PORT_H
#define	_PORT_H

#include <stdint.h>
#include <time.h>

#define	PORT_SOURCE_USER	3
#define	PORT_SOURCE_FILE	7

#define	FILE_ACCESS		0x00000001
#define	FILE_MODIFIED		0x00000002
#define	FILE_ATTRIB		0x00000004
#define	FILE_DELETE		0x00000010
#define	FILE_RENAME_TO		0x00000020
#define	FILE_RENAME_FROM	0x00000040
#define	FILE_TRUNC		0x00100000
#define	FILE_NOFOLLOW		0x10000000
#define	UNMOUNTED		0x20000000
#define	MOUNTEDOVER		0x40000000

#define	FILE_EXCEPTION		(UNMOUNTED | FILE_DELETE | FILE_RENAME_TO | \
				FILE_RENAME_FROM | MOUNTEDOVER)

typedef struct port_event {
	int		portev_events;
	unsigned short	portev_source;
	unsigned short	portev_pad;
	uintptr_t	portev_object;
	void		*portev_user;
} port_event_t;

typedef struct file_obj {
	struct timespec	fo_atime;
	struct timespec	fo_mtime;
	struct timespec	fo_ctime;
	uintptr_t	fo_pad[3];
	char		*fo_name;
} file_obj_t;

int port_create(void);
int port_associate(int port, int source, uintptr_t object, int events,
    void *user);
int port_dissociate(int port, int source, uintptr_t object);
int port_getn(int port, port_event_t list[], unsigned int max,
    unsigned int *nget, const struct timespec *timeout);
int port_send(int port, int events, void *user);

#endif	/* _PORT_H */
