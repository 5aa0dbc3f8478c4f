/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The older packet library, which is in the header alone: two ports of a
 * switch, opened, used and closed by one program, as one would use libpcap.
 *
 *	cc legacy.c -o legacy $(pkg-config --cflags --libs netvale)
 *	./legacy
 */
#include <poll.h>
#include <stdio.h>
#include <string.h>
#define NETMAP_WITH_LIBS
#include <net/netmap_user.h>

#define FRAMES 100

static void
got(unsigned char *arg, const struct nm_pkthdr *h, const unsigned char *data)
{
	unsigned int *count = (unsigned int *)(void *)arg;

	if (h->len == 60 && data[12] == 0x88 && data[13] == 0xb5)
		(*count)++;
}

int
main(int argc, char **argv)
{
	const char *to = argc > 2 ? argv[2] : "vale0:old_b";
	const char *from = argc > 1 ? argv[1] : "vale0:old_a";
	struct nm_desc *a, *b;
	unsigned int sent = 0, received = 0;
	char frame[60];

	memset(frame, 0, sizeof(frame));
	memset(frame, 0xff, 6);
	memcpy(frame + 6, "\x02\0\0\0\0\1\x88\xb5", 8);

	a = nm_open(from, NULL, 0, NULL);
	b = a != NULL ? nm_open(to, NULL, 0, NULL) : NULL;
	if (b == NULL) {
		nm_close(a);
		return 1;
	}
	while (sent < FRAMES && nm_inject(a, frame, sizeof(frame)) != 0)
		sent++;
	ioctl(NETMAP_FD(a), NIOCTXSYNC, NULL);

	while (received < sent) {
		struct pollfd fd = { .fd = NETMAP_FD(b), .events = POLLIN };

		if (poll(&fd, 1, 5000) <= 0 || (fd.revents & POLLERR))
			break;
		nm_dispatch(b, -1, got, (unsigned char *)&received);
	}
	printf("sent %u, received %u\n", sent, received);
	nm_close(b);
	nm_close(a);
	return sent != FRAMES || received != sent;
}
