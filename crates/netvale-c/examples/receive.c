/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Receives frames from a port until there were enough, or none came for
 * 5 seconds.
 *
 *	cc receive.c -o receive $(pkg-config --cflags --libs netvale)
 *	./receive vale0:b 1000000
 */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <libnetmap.h>

int
main(int argc, char **argv)
{
	unsigned long count, frames = 0, bytes = 0;
	struct nmport_d *d;
	unsigned int r;

	if (argc < 2) {
		fprintf(stderr, "usage: %s PORT [COUNT]\n", argv[0]);
		return 2;
	}
	count = argc > 2 ? strtoul(argv[2], NULL, 10) : 1;

	d = nmport_open(argv[1]);
	if (d == NULL)
		return 1;	/* the library has said why */
	printf("ready\n");
	fflush(stdout);

	while (frames < count) {
		struct pollfd fd = { .fd = d->fd, .events = POLLIN };

		/* Gives released slots back, and waits for frames. */
		if (poll(&fd, 1, 5000) <= 0 || (fd.revents & POLLERR))
			break;
		for (r = d->first_rx_ring; r <= d->last_rx_ring; r++) {
			struct netmap_ring *ring = NETMAP_RXRING(d->nifp, r);
			uint32_t head = ring->head;

			while (head != ring->tail && frames < count) {
				struct netmap_slot *slot = &ring->slot[head];

				/* The frame is at NETMAP_BUF(ring, slot->buf_idx). */
				bytes += slot->len;
				if (!(slot->flags & NS_MOREFRAG))
					frames++;
				head = nm_ring_next(ring, head);
			}
			ring->head = ring->cur = head;
		}
	}
	/* So that the sender gets its slots back at once. */
	ioctl(d->fd, NIOCRXSYNC, NULL);
	printf("received %lu frames, %lu bytes\n", frames, bytes);
	nmport_close(d);
	return frames < count;
}
