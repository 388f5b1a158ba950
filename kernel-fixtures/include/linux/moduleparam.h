/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef _LINUX_MODULEPARAM_H
#define _LINUX_MODULEPARAM_H

#include <linux/init.h>
#include <linux/kernel.h>

/* Built into vmlinux, a parameter is called module.parameter. */
#ifdef MODULE
#define MODULE_PARAM_PREFIX
#define __MODULE_INFO_PREFIX
#else
#define MODULE_PARAM_PREFIX	KBUILD_MODNAME "."
#define __MODULE_INFO_PREFIX	KBUILD_MODNAME "."
#endif

#define MODULE_INFO(tag, info) \
	static const char __UNIQUE_ID(tag)[] __used __section(".modinfo") __aligned(1) = \
		__MODULE_INFO_PREFIX __stringify(tag) "=" info

struct kernel_param;
struct module;

struct kernel_param_ops {
	unsigned int flags;
	int (*set)(const char *val, const struct kernel_param *kp);
	int (*get)(char *buffer, const struct kernel_param *kp);
	void (*free)(void *arg);
};

struct kernel_param {
	const char *name;
	struct module *mod;
	const struct kernel_param_ops *ops;
	const u16 perm;
	s8 level;
	u8 flags;
	void *arg;
};

extern const struct kernel_param_ops param_ops_bool;
extern const struct kernel_param_ops param_ops_uint;
int param_set_bool(const char *val, const struct kernel_param *kp);
int param_get_bool(char *buffer, const struct kernel_param *kp);
int param_set_uint(const char *val, const struct kernel_param *kp);
int param_get_uint(char *buffer, const struct kernel_param *kp);

#define __module_param(param, operations, argument, permissions) \
	static const char __param_str_##param[] = MODULE_PARAM_PREFIX #param; \
	static struct kernel_param const __param_##param __used __section("__param") \
		__aligned(8) = { __param_str_##param, THIS_MODULE, operations, permissions, -1, 0, argument }

#define module_param_named(param, variable, type, permissions) \
	__module_param(param, &param_ops_##type, &variable, permissions)
#define module_param(variable, type, permissions) \
	module_param_named(variable, variable, type, permissions)
#define module_param_call(param, setter, getter, argument, permissions) \
	static const struct kernel_param_ops __param_ops_##param = { .set = setter, .get = getter }; \
	__module_param(param, &__param_ops_##param, argument, permissions)

#define MODULE_PARM_DESC(param, text)	MODULE_INFO(parm, #param ":" text)

#endif
