// SPDX-License-Identifier: GPL-2.0-or-later
#include <linux/livepatch.h>

static LIST_HEAD(klp_patches);

static bool klp_is_module(struct klp_object *obj)
{
	return obj->name;
}

static int klp_init_func(struct klp_object *obj, struct klp_func *func)
{
	if (!func->old_name || !func->new_func)
		return -EINVAL;
	INIT_LIST_HEAD(&func->stack_node);
	return klp_is_module(obj) && !func->old_func ? 0 : 1;
}

/* The miniature kernel loads no module: enough is here to be linked against. */
int klp_enable_patch(struct klp_patch *patch)
{
	struct klp_object *obj;
	struct klp_func *func;
	int ret;

	if (!patch || !patch->mod || !patch->objs)
		return -EINVAL;
	klp_for_each_object_static(patch, obj) {
		klp_for_each_func_static(obj, func) {
			ret = klp_init_func(obj, func);
			if (ret < 0)
				return ret;
		}
	}
	list_add_tail(&patch->list, &klp_patches);
	patch->enabled = true;
	return 0;
}
EXPORT_SYMBOL_GPL(klp_enable_patch);
