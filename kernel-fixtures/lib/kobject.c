// SPDX-License-Identifier: GPL-2.0-or-later
#include <linux/export.h>
#include <linux/kobject.h>

int kobject_init_and_add(struct kobject *kobj, const struct kobj_type *ktype,
			 struct kobject *parent, const char *name)
{
	INIT_LIST_HEAD(&kobj->entry);
	kobj->ktype = ktype;
	kobj->parent = parent;
	kobj->name = name;
	return 0;
}
EXPORT_SYMBOL_GPL(kobject_init_and_add);

void kobject_put(struct kobject *kobj)
{
	kobj->parent = NULL;
}
EXPORT_SYMBOL(kobject_put);

const char *kobject_name(const struct kobject *kobj)
{
	return kobj->name;
}
EXPORT_SYMBOL_GPL(kobject_name);
