/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef NET_9P_CLIENT_H
#define NET_9P_CLIENT_H

struct p9_client {
	unsigned int msize;
	int status;
};

struct p9_client *p9_client_create(const char *dev_name, char *options);
void p9_client_destroy(struct p9_client *clnt);

#endif
