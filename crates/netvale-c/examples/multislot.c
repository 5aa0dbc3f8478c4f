/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Frames that are longer than a buffer take several slots. Sends such frames
 * from one port of a switch to another and puts them together again.
 *
 *	cc multislot.c -o multislot $(pkg-config --cflags --libs netvale)
 *	./multislot
 */
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <libnetmap.h>

#define LEN 9000
#define FRAMES 50

/*
 * Copies the next frame of a ring to buf and releases its slots. Its length;
 * 0 if it has not arrived whole, -1 if it is too long.
 */
static long
next_frame(struct netmap_ring *ring, char *buf, size_t size)
{
	uint32_t i = ring->head;
	size_t len = 0;
	int more = 1;

	while (more) {
		struct netmap_slot *slot = &ring->slot[i];

		if (i == ring->tail)
			return 0;
		if (slot->len > size - len)
			return -1;
		memcpy(buf + len, NETMAP_BUF(ring, slot->buf_idx), slot->len);
		len += slot->len;
		more = slot->flags & NS_MOREFRAG;
		i = nm_ring_next(ring, i);
	}
	ring->head = ring->cur = i;
	return (long)len;
}

int
main(int argc, char **argv)
{
	const char *to = argc > 2 ? argv[2] : "vale0:long_b";
	const char *from = argc > 1 ? argv[1] : "vale0:long_a";
	static char frame[LEN], back[LEN];
	struct nmport_d *a, *b;
	int n, good = 0;

	for (n = 0; n < LEN; n++)
		frame[n] = (char)(n * 31);
	memset(frame, 0xff, 6);
	memcpy(frame + 6, "\x02\0\0\0\0\1\x88\xb5", 8);

	a = nmport_open(from);
	b = a != NULL ? nmport_open(to) : NULL;
	if (b == NULL) {
		nmport_close(a);
		return 1;	/* the library has said why */
	}
	for (n = 0; n < FRAMES; n++) {
		struct netmap_ring *ring = NETMAP_RXRING(b->nifp, b->first_rx_ring);
		struct pollfd fd = { .fd = b->fd, .events = POLLIN };
		long len;

		frame[20] = (char)n;
		/* The library spreads the frame over slots. */
		if (nmport_inject(a, frame, LEN) != LEN)
			break;
		ioctl(a->fd, NIOCTXSYNC, NULL);
		if (poll(&fd, 1, 5000) <= 0 || (fd.revents & POLLERR))
			break;
		len = next_frame(ring, back, sizeof(back));
		if (len == LEN && memcmp(frame, back, LEN) == 0)
			good++;
	}
	printf("%d of %d frames of %d bytes came back whole\n", good, FRAMES, LEN);
	nmport_close(b);
	nmport_close(a);
	return good != FRAMES;
}
