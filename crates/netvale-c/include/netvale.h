/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * netvale's C library, whole: netmap's interface (<net/netmap_user.h>) and its
 * helper library (<libnetmap.h>). Programs that are to compile with netmap as
 * well include those instead of this file.
 */
#ifndef NETVALE_H_
#define NETVALE_H_

#include <net/netmap_user.h>
#include <libnetmap.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The version of the library that runs, for instance "0.1.0". */
const char *netvale_version(void);

#ifdef __cplusplus
}
#endif

#endif /* NETVALE_H_ */
