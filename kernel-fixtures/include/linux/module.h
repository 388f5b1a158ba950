/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef _LINUX_MODULE_H
#define _LINUX_MODULE_H

#include <linux/export.h>
#include <linux/init.h>
#include <linux/kernel.h>
#include <linux/kobject.h>
#include <linux/moduleparam.h>
#include <linux/string.h>

#define MODULE_NAME_LEN (64 - sizeof(unsigned long))

enum module_state {
	MODULE_STATE_LIVE,
	MODULE_STATE_COMING,
	MODULE_STATE_GOING,
	MODULE_STATE_UNFORMED,
};

struct module {
	enum module_state state;
	struct list_head list;
	char name[MODULE_NAME_LEN];
	struct kobject kobj;
	int (*init)(void);
	void (*exit)(void);
} __aligned(64);

struct modversion_info {
	unsigned long crc;
	char name[MODULE_NAME_LEN];
};

int init_module(void);
void cleanup_module(void);

#ifdef MODULE
#define module_init(fn) \
	int init_module(void) __copy(fn) __alias(fn)
#define module_exit(fn) \
	void cleanup_module(void) __copy(fn) __alias(fn)
#else
#define module_init(fn)		device_initcall(fn)
#define module_exit(fn) \
	static exitcall_t __PASTE(__exitcall_, fn) __used __section(".exitcall.exit") = fn
#endif

#define MODULE_LICENSE(text)	MODULE_INFO(license, text)
#define MODULE_AUTHOR(text)	MODULE_INFO(author, text)
#define MODULE_DESCRIPTION(text) MODULE_INFO(description, text)
#define MODULE_ALIAS(text)	MODULE_INFO(alias, text)
#define MODULE_VERSION(text)	MODULE_INFO(version, text)

#endif
