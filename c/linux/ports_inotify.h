/*
 * This Source Code Form is subject to the terms of the Mozilla Public
 * License, v. 2.0. If a copy of the MPL was not distributed with this
 * file, You can obtain one at https://mozilla.org/MPL/2.0/.
 */

/*
 * The event-port API over inotify(7), for development and tests on Linux. It
 * declares the same as illumos, and returns the same errors, except that a port
 * is closed by port_close() in place of close(2).
 */

#ifndef PORTS_INOTIFY_H
#define	PORTS_INOTIFY_H

#include "../illumos/port.h"

int port_close(int port);

#endif	/* PORTS_INOTIFY_H */
