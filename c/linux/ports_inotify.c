/*
 * This Source Code Form is subject to the terms of the Mozilla Public
 * License, v. 2.0. If a copy of the MPL was not distributed with this
 * file, You can obtain one at https://mozilla.org/MPL/2.0/.
 */

/*
 * Event ports over inotify: see ports_inotify.h.
 *
 * HOW IT MAPS. A port is an inotify instance, whose descriptor is the port's,
 * and an eventfd that wakes its readers. An association has two inotify
 * watches: one on the file's inode (writes, attributes) and one on its parent
 * directory, because only the directory reports that a *name* was removed,
 * renamed or taken over: an inode with a second link, or one held open, reports
 * none of that. The directory is watched first, so that it reports if the name
 * leads elsewhere a moment later. inotify has one watch for each inode, so a
 * watch is shared by all associations that need it, and every watch asks for
 * the same events. Events for an association that has fired are dropped, as an
 * event port does; associating it again compares the caller's stamps.
 *
 * WHAT IT DOES NOT DO. FILE_ACCESS and MOUNTEDOVER never come; a second link to
 * a file is reported to its directory as a new file is.
 *
 * LOCKING. p_lock guards all data of a port; it is not held while waiting.
 */

#define	_GNU_SOURCE
#include <sys/types.h>
#include <sys/stat.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ports_inotify.h"

#define	REQUESTABLE	(FILE_ACCESS | FILE_MODIFIED | FILE_ATTRIB | FILE_TRUNC)
/* Some of these come only for a file, the others only for a directory. */
#define	WATCH_MASK	(IN_MODIFY | IN_ATTRIB | IN_DELETE_SELF | IN_CREATE | \
			IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO)
#define	BUCKETS_FIRST	64
#define	READ_SIZE	65536
/* Like the resource control process.max-port-events, with illumos' default. */
#define	EVENTS_MAX	65536
#define	EVENTS_MAX_ENV	"PROCESS_MAX_PORT_EVENTS"

#define	CONTAINER_OF(p, type, member) \
	((type *)((char *)(p) - offsetof(type, member)))

/* A hash table. Its nodes are members of the items that it holds. */
typedef struct node {
	struct node	*n_next;
	uint64_t	n_hash;
} node_t;

typedef struct table {
	node_t		**t_buckets;
	size_t		t_size;		/* a power of two */
	size_t		t_count;
} table_t;

/* A doubly linked list. Its links are members of its items. */
typedef struct link {
	struct link	*l_prev;
	struct link	*l_next;
} link_t;

/* One inotify watch, shared by the associations that need it. */
typedef struct inode_watch {
	node_t		iw_node;	/* in p_watches, by wd */
	int		iw_wd;
	uint32_t	iw_refs;
	link_t		iw_self;	/* associations of this very inode */
} inode_watch_t;

/* The state of a file, to be compared with a later one. */
typedef struct state {
	dev_t		s_dev;
	ino_t		s_ino;
	off_t		s_size;
	struct timespec	s_mtime;
	struct timespec	s_ctime;
} state_t;

typedef struct assoc {
	node_t		a_node;		/* in p_assocs, by object */
	node_t		a_name_node;	/* in p_names, by parent and name */
	link_t		a_self_link;	/* in iw_self of a_self */
	link_t		a_ready_link;	/* in p_ready while an event waits */
	uintptr_t	a_object;
	void		*a_user;
	int		a_requested;
	int		a_events;	/* the queued event */
	char		a_active;	/* waits for an event */
	char		a_queued;	/* has an event in p_ready */
	char		a_final;	/* its queued event is an exception */
	char		a_is_dir;
	uint16_t	a_name_at;	/* in a_path: the last component */
	inode_watch_t	*a_self;	/* NULL: the kernel has dropped it */
	inode_watch_t	*a_parent;	/* NULL: of "/", or dropped */
	state_t		a_state;	/* as it was associated */
	char		a_path[];	/* shorter than PATH_MAX */
} assoc_t;

typedef struct user_event {
	struct user_event *ue_next;
	int		ue_events;
	void		*ue_user;
} user_event_t;

typedef struct port {
	struct port	*p_next;	/* in ports */
	int		p_inotify;
	int		p_wake;
	size_t		p_max;
	pthread_mutex_t	p_lock;
	table_t		p_watches;
	table_t		p_assocs;
	table_t		p_names;
	link_t		p_ready;
	link_t		p_lost;		/* exceptions that got no event */
	user_event_t	*p_user;
	char		p_buffer[READ_SIZE]
	    __attribute__((aligned(__alignof__(struct inotify_event))));
} port_t;

static pthread_mutex_t ports_lock = PTHREAD_MUTEX_INITIALIZER;
static port_t *ports;

/* --- lists and tables --- */

static void
list_init(link_t *list)
{
	list->l_prev = list->l_next = list;
}

static void
list_append(link_t *list, link_t *item)
{
	item->l_prev = list->l_prev;
	item->l_next = list;
	list->l_prev->l_next = item;
	list->l_prev = item;
}

static void
list_remove(link_t *item)
{
	item->l_prev->l_next = item->l_next;
	item->l_next->l_prev = item->l_prev;
	list_init(item);
}

static uint64_t
hash_number(uint64_t n)
{
	n ^= n >> 33;
	n *= 0xff51afd7ed558ccdULL;
	n ^= n >> 33;
	return (n);
}

static uint64_t
hash_name(int parent, const char *name)
{
	uint64_t hash = hash_number((uint64_t)parent);

	for (; *name != '\0'; name++)
		hash = (hash ^ (unsigned char)*name) * 0x100000001b3ULL;
	return (hash_number(hash));
}

static int
table_init(table_t *table)
{
	table->t_size = BUCKETS_FIRST;
	table->t_count = 0;
	table->t_buckets = calloc(BUCKETS_FIRST, sizeof (node_t *));
	return (table->t_buckets == NULL ? ENOMEM : 0);
}

static node_t *
table_chain(const table_t *table, uint64_t hash)
{
	return (table->t_buckets[hash & (table->t_size - 1)]);
}

static void
table_insert(table_t *table, node_t *node, uint64_t hash)
{
	node_t **bucket;

	if (table->t_count >= table->t_size) {
		size_t size = table->t_size * 2;
		node_t **buckets = calloc(size, sizeof (node_t *));

		/* If there is no memory for it, the chains just grow longer. */
		for (size_t i = 0; buckets != NULL && i < table->t_size; i++) {
			node_t *n = table->t_buckets[i];

			while (n != NULL) {
				node_t *next = n->n_next;

				bucket = &buckets[n->n_hash & (size - 1)];
				n->n_next = *bucket;
				*bucket = n;
				n = next;
			}
		}
		if (buckets != NULL) {
			free(table->t_buckets);
			table->t_buckets = buckets;
			table->t_size = size;
		}
	}
	bucket = &table->t_buckets[hash & (table->t_size - 1)];
	node->n_hash = hash;
	node->n_next = *bucket;
	*bucket = node;
	table->t_count++;
}

static void
table_remove(table_t *table, node_t *node)
{
	node_t **at = &table->t_buckets[node->n_hash & (table->t_size - 1)];

	while (*at != node)
		at = &(*at)->n_next;
	*at = node->n_next;
	table->t_count--;
}

/* --- inotify watches --- */

static inode_watch_t *
watch_find(port_t *p, int wd)
{
	node_t *n = table_chain(&p->p_watches, hash_number((uint64_t)wd));

	for (; n != NULL; n = n->n_next) {
		inode_watch_t *iw = CONTAINER_OF(n, inode_watch_t, iw_node);

		if (iw->iw_wd == wd)
			return (iw);
	}
	return (NULL);
}

/* Returns a reference to the watch of a path's inode. */
static int
watch_get(port_t *p, const char *path, uint32_t flags, inode_watch_t **out)
{
	/*
	 * When the mask of an existing watch is replaced, even by the same
	 * mask, the kernel empties it first, and does not report what happens
	 * to the file at that very moment. Adding to the mask leaves no such
	 * gap.
	 */
	int wd = inotify_add_watch(p->p_inotify, path,
	    WATCH_MASK | IN_MASK_ADD | flags);
	inode_watch_t *iw;

	if (wd < 0)
		return (errno);
	iw = watch_find(p, wd);
	if (iw == NULL) {
		iw = calloc(1, sizeof (*iw));
		if (iw == NULL) {
			(void) inotify_rm_watch(p->p_inotify, wd);
			return (ENOMEM);
		}
		iw->iw_wd = wd;
		list_init(&iw->iw_self);
		table_insert(&p->p_watches, &iw->iw_node,
		    hash_number((uint64_t)wd));
	}
	iw->iw_refs++;
	*out = iw;
	return (0);
}

static void
watch_put(port_t *p, inode_watch_t *iw)
{
	if (iw == NULL || --iw->iw_refs > 0)
		return;
	/* EINVAL: the kernel has dropped it, and IN_IGNORED is on its way. */
	(void) inotify_rm_watch(p->p_inotify, iw->iw_wd);
	table_remove(&p->p_watches, &iw->iw_node);
	free(iw);
}

/* --- associations --- */

static assoc_t *
assoc_find(port_t *p, uintptr_t object)
{
	node_t *n = table_chain(&p->p_assocs, hash_number(object));

	for (; n != NULL; n = n->n_next) {
		assoc_t *a = CONTAINER_OF(n, assoc_t, a_node);

		if (a->a_object == object)
			return (a);
	}
	return (NULL);
}

static const char *
name_of(const assoc_t *a)
{
	return (a->a_path + a->a_name_at);
}

/* Takes an association off its inotify watches. */
static void
assoc_unhook(port_t *p, assoc_t *a)
{
	if (a->a_parent != NULL)
		table_remove(&p->p_names, &a->a_name_node);
	list_remove(&a->a_self_link);
	watch_put(p, a->a_parent);
	watch_put(p, a->a_self);
	a->a_parent = a->a_self = NULL;
}

static void
assoc_free(port_t *p, assoc_t *a)
{
	assoc_unhook(p, a);
	list_remove(&a->a_ready_link);
	table_remove(&p->p_assocs, &a->a_node);
	free(a);
}

static int
same_time(const struct timespec *a, const struct timespec *b)
{
	return (a->tv_sec == b->tv_sec && a->tv_nsec == b->tv_nsec);
}

static int
is_set(const struct timespec *t)
{
	return (t->tv_sec != 0 || t->tv_nsec != 0);
}

static int
stat_path(const char *path, int requested, struct stat *st)
{
	int result = (requested & FILE_NOFOLLOW) != 0 ?
	    lstat(path, st) : stat(path, st);

	return (result != 0 ? errno : 0);
}

static state_t
state_of(const struct stat *st)
{
	state_t state = { st->st_dev, st->st_ino, st->st_size, st->st_mtim,
	    st->st_ctim };

	return (state);
}

static int
same_inode(const struct stat *a, const state_t *b)
{
	return (a->st_dev == b->s_dev && a->st_ino == b->s_ino);
}

/*
 * Gives an association its event, if it waits for one of these. An exception
 * comes whatever was requested, and ends the association. It needs one event
 * more than the association's own: if the port has none left, the association
 * ends, and nothing reports that.
 */
static void
deliver(port_t *p, assoc_t *a, int events)
{
	events &= a->a_requested | FILE_EXCEPTION;
	if (!a->a_active || events == 0)
		return;
	a->a_active = 0;
	if ((events & FILE_EXCEPTION) != 0) {
		a->a_final = 1;
		assoc_unhook(p, a);
		if (p->p_assocs.t_count >= p->p_max) {
			list_append(&p->p_lost, &a->a_ready_link);
			return;
		}
	}
	a->a_queued = 1;
	a->a_events = events;
	list_append(&p->p_ready, &a->a_ready_link);
}

/* Hooks an association to its inode and directory; sets *st as it is now. */
static int
assoc_hook(port_t *p, assoc_t *a, int events, struct stat *st)
{
	inode_watch_t *self = NULL, *parent = NULL;
	uint32_t flags = (events & FILE_NOFOLLOW) != 0 ? IN_DONT_FOLLOW : 0;
	int err = 0;

	if (strcmp(a->a_path, "/") != 0) {
		char directory[PATH_MAX];
		size_t len = a->a_name_at;

		/* "/x" is in "/", "a/x" in "a", "x" in ".". */
		(void) memcpy(directory, a->a_path, len);
		directory[len] = '\0';
		err = watch_get(p, len == 0 ? "." : directory, IN_ONLYDIR,
		    &parent);
	}
	if (err == 0)
		err = watch_get(p, a->a_path, flags, &self);
	if (err == 0)
		err = stat_path(a->a_path, events, st);
	if (err != 0) {
		watch_put(p, self);
		watch_put(p, parent);
		return (err);
	}
	assoc_unhook(p, a);
	a->a_self = self;
	a->a_parent = parent;
	list_append(&self->iw_self, &a->a_self_link);
	if (parent != NULL)
		table_insert(&p->p_names, &a->a_name_node,
		    hash_name(parent->iw_wd, name_of(a)));
	a->a_state = state_of(st);
	a->a_is_dir = S_ISDIR(st->st_mode);
	return (0);
}

static assoc_t *
assoc_create(port_t *p, const file_obj_t *fo, uintptr_t object)
{
	size_t size = strlen(fo->fo_name) + 1;
	assoc_t *a = calloc(1, sizeof (*a) + size);
	char *slash;

	if (a == NULL)
		return (NULL);
	(void) memcpy(a->a_path, fo->fo_name, size);
	slash = strrchr(a->a_path, '/');
	a->a_name_at = slash == NULL ? 0 : (uint16_t)(slash + 1 - a->a_path);
	a->a_object = object;
	list_init(&a->a_self_link);
	list_init(&a->a_ready_link);
	table_insert(&p->p_assocs, &a->a_node, hash_number(object));
	return (a);
}

static void read_inotify(port_t *);

static int
associate(port_t *p, uintptr_t object, int events, void *user)
{
	const file_obj_t *fo = (const file_obj_t *)object;
	struct stat st;
	assoc_t *a;
	int changed = 0, is_same = 0;
	int err;

	/*
	 * Events from before this call are not for this association. (Comparing
	 * inodes would not show that, because their numbers are used again at
	 * once.)
	 */
	read_inotify(p);
	if (fo == NULL || fo->fo_name == NULL)
		return (EFAULT);
	if ((events & ~(REQUESTABLE | FILE_NOFOLLOW)) != 0)
		return (EINVAL);
	if (fo->fo_name[0] == '\0')
		return (ENOENT);
	if (strlen(fo->fo_name) >= PATH_MAX)
		return (ENAMETOOLONG);
	a = assoc_find(p, object);
	if (a != NULL && a->a_self != NULL &&
	    stat_path(fo->fo_name, events, &st) == 0 &&
	    same_inode(&st, &a->a_state)) {
		/* The same file: the cookie and name of the first time stay. */
		user = a->a_user;
		is_same = 1;
	} else if (a != NULL && strcmp(a->a_path, fo->fo_name) != 0) {
		assoc_free(p, a);
		a = NULL;
	}
	if (a == NULL && p->p_assocs.t_count >= p->p_max)
		return (EAGAIN);
	if (a == NULL && (a = assoc_create(p, fo, object)) == NULL)
		return (ENOMEM);
	if (is_same && strcmp(a->a_path, fo->fo_name) != 0) {
		a->a_state = state_of(&st);
	} else if ((err = assoc_hook(p, a, events, &st)) != 0) {
		if (!a->a_active && !a->a_queued)
			assoc_free(p, a);
		return (err);
	}
	a->a_user = user;
	a->a_requested = events & REQUESTABLE;
	a->a_active = 1;
	a->a_queued = a->a_final = 0;
	list_remove(&a->a_ready_link);

	if (is_set(&fo->fo_atime) && !same_time(&fo->fo_atime, &st.st_atim))
		changed |= FILE_ACCESS;
	if (is_set(&fo->fo_mtime) && !same_time(&fo->fo_mtime, &st.st_mtim))
		changed |= FILE_MODIFIED;
	if (is_set(&fo->fo_ctime) && !same_time(&fo->fo_ctime, &st.st_ctim))
		changed |= FILE_ATTRIB;
	deliver(p, a, changed);
	return (0);
}

/* --- translation of inotify's events --- */

/* Handles an event of the inode of an association. */
static void
self_event(port_t *p, assoc_t *a, uint32_t mask)
{
	struct stat now;

	if ((mask & IN_UNMOUNT) != 0) {
		deliver(p, a, UNMOUNTED);
	} else if ((mask & IN_DELETE_SELF) != 0) {
		/* The directory's event says how, if there is a directory. */
		if (a->a_parent == NULL)
			deliver(p, a, FILE_DELETE);
	} else if ((mask & IN_MODIFY) != 0) {
		int events = FILE_MODIFIED | FILE_ATTRIB;

		if (stat_path(a->a_path, 0, &now) == 0 && now.st_size == 0)
			events |= FILE_TRUNC;
		deliver(p, a, events);
	} else if ((mask & IN_ATTRIB) != 0) {
		int events = FILE_ATTRIB;

		/* The file lost this name: the directory's event says how. */
		if (stat_path(a->a_path, FILE_NOFOLLOW, &now) != 0 ||
		    !same_inode(&now, &a->a_state))
			return;
		if (!same_time(&now.st_mtim, &a->a_state.s_mtime))
			events |= FILE_MODIFIED;
		deliver(p, a, events);
	}
}

/* Handles an event of the name of an association in its directory. */
static void
name_event(port_t *p, assoc_t *a, uint32_t mask)
{
	if ((mask & IN_MOVED_TO) != 0)
		deliver(p, a, FILE_RENAME_TO);
	else if ((mask & IN_MOVED_FROM) != 0)
		deliver(p, a, FILE_RENAME_FROM);
	else if ((mask & IN_DELETE) != 0)
		deliver(p, a, FILE_DELETE);
}

/*
 * self_events() and directory_event() pass an event to each association of a
 * list or chain. Delivering may unhook an association, but only the one that it
 * is for.
 */
static void
self_events(port_t *p, inode_watch_t *iw, uint32_t mask)
{
	link_t *l = iw->iw_self.l_next;

	/* Keep the watch, and so the list, until the loop has ended. */
	iw->iw_refs++;
	while (l != &iw->iw_self) {
		link_t *next = l->l_next;

		self_event(p, CONTAINER_OF(l, assoc_t, a_self_link), mask);
		l = next;
	}
	watch_put(p, iw);
}

static void
directory_event(port_t *p, inode_watch_t *iw, uint32_t mask, const char *name)
{
	uint64_t hash = hash_name(iw->iw_wd, name);
	node_t *n = table_chain(&p->p_names, hash);
	uint32_t entries = IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO;
	link_t *l;

	iw->iw_refs++;
	while (n != NULL) {
		node_t *next = n->n_next;
		assoc_t *a = CONTAINER_OF(n, assoc_t, a_name_node);

		if (n->n_hash == hash && a->a_parent == iw &&
		    strcmp(name_of(a), name) == 0)
			name_event(p, a, mask);
		n = next;
	}
	for (l = iw->iw_self.l_next; l != &iw->iw_self; l = l->l_next) {
		assoc_t *a = CONTAINER_OF(l, assoc_t, a_self_link);
		int events = FILE_MODIFIED | FILE_ATTRIB;

		if ((mask & IN_CREATE) != 0 && (mask & IN_ISDIR) == 0)
			events |= FILE_TRUNC;
		if (a->a_is_dir && (mask & entries) != 0)
			deliver(p, a, events);
	}
	watch_put(p, iw);
}

/* The kernel has dropped a watch: it will report nothing more of it. */
static void
watch_ignored(port_t *p, inode_watch_t *iw)
{
	iw->iw_refs++;
	while (iw->iw_self.l_next != &iw->iw_self) {
		assoc_t *a = CONTAINER_OF(iw->iw_self.l_next, assoc_t,
		    a_self_link);

		list_remove(&a->a_self_link);
		a->a_self = NULL;
		iw->iw_refs--;
	}
	for (size_t i = 0; i < p->p_names.t_size && iw->iw_refs > 1; i++) {
		node_t *n = p->p_names.t_buckets[i];

		while (n != NULL) {
			node_t *next = n->n_next;
			assoc_t *a = CONTAINER_OF(n, assoc_t, a_name_node);

			if (a->a_parent == iw) {
				/* The directory is gone, and so is the file. */
				table_remove(&p->p_names, &a->a_name_node);
				a->a_parent = NULL;
				iw->iw_refs--;
				deliver(p, a, FILE_DELETE);
			}
			n = next;
		}
	}
	watch_put(p, iw);
}

/* inotify has lost events: every file that differs has changed. */
static void
overflow(port_t *p)
{
	for (size_t i = 0; i < p->p_assocs.t_size; i++) {
		node_t *n = p->p_assocs.t_buckets[i];

		for (; n != NULL; n = n->n_next) {
			assoc_t *a = CONTAINER_OF(n, assoc_t, a_node);
			struct stat now;

			if (!a->a_active)
				continue;
			if (stat_path(a->a_path, FILE_NOFOLLOW, &now) != 0)
				deliver(p, a, FILE_DELETE);
			else if (!same_inode(&now, &a->a_state))
				deliver(p, a, FILE_RENAME_TO);
			else if (now.st_size != a->a_state.s_size ||
			    !same_time(&now.st_mtim, &a->a_state.s_mtime) ||
			    !same_time(&now.st_ctim, &a->a_state.s_ctime))
				deliver(p, a, FILE_MODIFIED | FILE_ATTRIB);
		}
	}
}

static int
is_attributes(const struct inotify_event *ie)
{
	return (ie->len == 0 && (ie->mask & IN_ATTRIB) != 0);
}

static void
translate(port_t *p, const struct inotify_event *ie)
{
	inode_watch_t *iw = watch_find(p, ie->wd);

	if ((ie->mask & IN_Q_OVERFLOW) != 0)
		overflow(p);
	else if (iw == NULL)
		return;		/* removed while this was queued */
	else if ((ie->mask & IN_IGNORED) != 0)
		watch_ignored(p, iw);
	else if (ie->len > 0)
		directory_event(p, iw, ie->mask, ie->name);
	else
		self_events(p, iw, ie->mask);
}

/*
 * Translates all events that are there. Attributes come last: an unlink changes
 * the inode's count of links before the directory reports the name, and the
 * association must get one event, FILE_DELETE.
 */
static void
read_inotify(port_t *p)
{
	ssize_t len;

	while ((len = read(p->p_inotify, p->p_buffer, READ_SIZE)) > 0) {
		for (int attributes = 0; attributes <= 1; attributes++) {
			char *at = p->p_buffer;

			while (at < p->p_buffer + len) {
				struct inotify_event *ie =
				    (struct inotify_event *)at;

				if (is_attributes(ie) == attributes)
					translate(p, ie);
				at += sizeof (*ie) + ie->len;
			}
		}
	}
	while (p->p_lost.l_next != &p->p_lost)
		assoc_free(p, CONTAINER_OF(p->p_lost.l_next, assoc_t,
		    a_ready_link));
}

/* --- the API --- */

/* The port with its lock held, or NULL with errno set. */
static port_t *
port_lock(int fd)
{
	port_t *p;

	(void) pthread_mutex_lock(&ports_lock);
	for (p = ports; p != NULL && p->p_inotify != fd; p = p->p_next)
		;
	if (p != NULL)
		(void) pthread_mutex_lock(&p->p_lock);
	(void) pthread_mutex_unlock(&ports_lock);
	if (p == NULL)
		errno = EBADFD;
	return (p);
}

static int
port_unlock(port_t *p, int err)
{
	(void) pthread_mutex_unlock(&p->p_lock);
	if (err != 0)
		errno = err;
	return (err == 0 ? 0 : -1);
}

/* How many associations a port may have, which an operator may have set. */
static size_t
events_max(void)
{
	const char *text = getenv(EVENTS_MAX_ENV);
	char *end;
	unsigned long max;

	if (text == NULL)
		return (EVENTS_MAX);
	errno = 0;
	max = strtoul(text, &end, 10);
	if (errno != 0 || end == text || *end != '\0' || max == 0)
		return (EVENTS_MAX);
	return (max);
}

int
port_create(void)
{
	port_t *p = calloc(1, sizeof (*p));
	int err = 0;

	if (p == NULL) {
		errno = EAGAIN;
		return (-1);
	}
	p->p_wake = -1;
	p->p_max = events_max();
	list_init(&p->p_ready);
	list_init(&p->p_lost);
	(void) pthread_mutex_init(&p->p_lock, NULL);
	p->p_inotify = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	if (p->p_inotify < 0 ||
	    (p->p_wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) < 0)
		err = errno;
	else if (table_init(&p->p_watches) != 0 ||
	    table_init(&p->p_assocs) != 0 || table_init(&p->p_names) != 0)
		err = EAGAIN;
	if (err != 0) {
		if (p->p_inotify >= 0)
			(void) close(p->p_inotify);
		if (p->p_wake >= 0)
			(void) close(p->p_wake);
		free(p->p_watches.t_buckets);
		free(p->p_assocs.t_buckets);
		free(p->p_names.t_buckets);
		free(p);
		errno = err;
		return (-1);
	}
	(void) pthread_mutex_lock(&ports_lock);
	p->p_next = ports;
	ports = p;
	(void) pthread_mutex_unlock(&ports_lock);
	return (p->p_inotify);
}

/* Unlike close(2) of a port, this needs all other calls to have returned. */
int
port_close(int fd)
{
	port_t **at, *p;

	(void) pthread_mutex_lock(&ports_lock);
	for (at = &ports; (p = *at) != NULL; at = &p->p_next) {
		if (p->p_inotify == fd) {
			*at = p->p_next;
			break;
		}
	}
	(void) pthread_mutex_unlock(&ports_lock);
	if (p == NULL) {
		errno = EBADF;
		return (-1);
	}
	for (size_t i = 0; i < p->p_assocs.t_size; i++) {
		while (p->p_assocs.t_buckets[i] != NULL)
			assoc_free(p, CONTAINER_OF(p->p_assocs.t_buckets[i],
			    assoc_t, a_node));
	}
	while (p->p_user != NULL) {
		user_event_t *ue = p->p_user;

		p->p_user = ue->ue_next;
		free(ue);
	}
	free(p->p_watches.t_buckets);
	free(p->p_assocs.t_buckets);
	free(p->p_names.t_buckets);
	(void) close(p->p_inotify);
	(void) close(p->p_wake);
	(void) pthread_mutex_destroy(&p->p_lock);
	free(p);
	return (0);
}

int
port_associate(int fd, int source, uintptr_t object, int events, void *user)
{
	port_t *p = port_lock(fd);

	if (p == NULL)
		return (-1);
	if (source != PORT_SOURCE_FILE)
		return (port_unlock(p, EINVAL));
	int err = associate(p, object, events, user);
	if (p->p_ready.l_next != &p->p_ready) {
		uint64_t one = 1;

		/*
		 * The stamps differed, or events of other associations were
		 * read: a reader may be waiting. EAGAIN: it is awake already.
		 */
		(void) !write(p->p_wake, &one, sizeof (one));
	}
	return (port_unlock(p, err));
}

int
port_dissociate(int fd, int source, uintptr_t object)
{
	port_t *p = port_lock(fd);
	assoc_t *a;
	int err = 0;

	if (p == NULL)
		return (-1);
	if (source != PORT_SOURCE_FILE)
		return (port_unlock(p, EINVAL));
	a = assoc_find(p, object);
	if (a == NULL || (!a->a_active && !a->a_queued))
		err = ENOENT;
	if (a != NULL)
		assoc_free(p, a);
	return (port_unlock(p, err));
}

int
port_send(int fd, int events, void *user)
{
	port_t *p = port_lock(fd);
	user_event_t *ue, **last;
	uint64_t one = 1;

	if (p == NULL)
		return (-1);
	ue = calloc(1, sizeof (*ue));
	if (ue == NULL)
		return (port_unlock(p, ENOMEM));
	ue->ue_events = events;
	ue->ue_user = user;
	for (last = &p->p_user; *last != NULL; last = &(*last)->ue_next)
		;
	*last = ue;
	/* EAGAIN: the counter is full, so the reader is awake anyway. */
	(void) !write(p->p_wake, &one, sizeof (one));
	return (port_unlock(p, 0));
}

/* How many events wait, up to `max`. */
static unsigned int
waiting(const port_t *p, unsigned int max)
{
	unsigned int n = 0;

	for (const link_t *l = p->p_ready.l_next; l != &p->p_ready && n < max;
	    l = l->l_next)
		n++;
	for (const user_event_t *ue = p->p_user; ue != NULL && n < max;
	    ue = ue->ue_next)
		n++;
	return (n);
}

/* Moves waiting events to the caller's list. */
static unsigned int
collect(port_t *p, port_event_t list[], unsigned int max)
{
	unsigned int n = 0;

	while (n < max && p->p_ready.l_next != &p->p_ready) {
		assoc_t *a = CONTAINER_OF(p->p_ready.l_next, assoc_t,
		    a_ready_link);

		(void) memset(&list[n], 0, sizeof (list[n]));
		list[n].portev_events = a->a_events;
		list[n].portev_source = PORT_SOURCE_FILE;
		list[n].portev_object = a->a_object;
		list[n].portev_user = a->a_user;
		n++;
		a->a_queued = 0;
		list_remove(&a->a_ready_link);
		if (a->a_final)
			assoc_free(p, a);
	}
	while (n < max && p->p_user != NULL) {
		user_event_t *ue = p->p_user;

		(void) memset(&list[n], 0, sizeof (list[n]));
		list[n].portev_events = ue->ue_events;
		list[n].portev_source = PORT_SOURCE_USER;
		list[n].portev_user = ue->ue_user;
		n++;
		p->p_user = ue->ue_next;
		free(ue);
	}
	return (n);
}

static int64_t
milliseconds_until(const struct timespec *end)
{
	struct timespec now;

	(void) clock_gettime(CLOCK_MONOTONIC, &now);
	return ((end->tv_sec - now.tv_sec) * 1000 +
	    (end->tv_nsec - now.tv_nsec + 999999) / 1000000);
}

int
port_getn(int fd, port_event_t list[], unsigned int max, unsigned int *nget,
    const struct timespec *timeout)
{
	unsigned int wanted = *nget < max ? *nget : max;
	struct timespec end = { 0, 0 };

	if (timeout != NULL) {
		(void) clock_gettime(CLOCK_MONOTONIC, &end);
		end.tv_sec += timeout->tv_sec;
		end.tv_nsec += timeout->tv_nsec;
	}
	for (;;) {
		port_t *p = port_lock(fd);
		struct pollfd fds[2];
		int64_t left = -1;
		uint64_t count;
		int is_over = 0, wake;

		if (p == NULL) {
			errno = EBADF;
			return (-1);
		}
		(void) !read(p->p_wake, &count, sizeof (count));
		read_inotify(p);
		wake = p->p_wake;
		if (timeout != NULL && (left = milliseconds_until(&end)) <= 0)
			is_over = 1;
		if (is_over || waiting(p, wanted) >= wanted) {
			is_over = waiting(p, wanted) < wanted;
			*nget = collect(p, list, max);
			return (port_unlock(p, is_over ? ETIME : 0));
		}
		(void) port_unlock(p, 0);
		fds[0].fd = fd;
		fds[1].fd = wake;
		fds[0].events = fds[1].events = POLLIN;
		/* EINTR: list and nget stay as the caller has set them. */
		if (poll(fds, 2, left > INT_MAX ? INT_MAX : (int)left) < 0)
			return (-1);
	}
}
