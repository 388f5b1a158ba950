// SPDX-License-Identifier: GPL-2.0-or-later
#include <linux/livepatch.h>
#include <linux/slab.h>
#include <linux/spinlock.h>

struct klp_shadow {
	struct list_head node;
	void *obj;
	unsigned long id;
	char data[];
};

static LIST_HEAD(klp_shadow_list);
static DEFINE_SPINLOCK(klp_shadow_lock);

static struct klp_shadow *klp_shadow_find(void *obj, unsigned long id)
{
	struct klp_shadow *shadow;

	list_for_each_entry(shadow, &klp_shadow_list, node)
		if (shadow->obj == obj && shadow->id == id)
			return shadow;
	return NULL;
}

void *klp_shadow_get(void *obj, unsigned long id)
{
	struct klp_shadow *shadow = klp_shadow_find(obj, id);

	return shadow ? shadow->data : NULL;
}
EXPORT_SYMBOL_GPL(klp_shadow_get);

void *klp_shadow_alloc(void *obj, unsigned long id, size_t size, gfp_t gfp_flags,
		       klp_shadow_ctor_t ctor, void *ctor_data)
{
	struct klp_shadow *shadow = kmalloc(sizeof(*shadow) + size, gfp_flags);

	if (!shadow || (ctor && ctor(obj, shadow->data, ctor_data)))
		return NULL;
	shadow->obj = obj;
	shadow->id = id;
	spin_lock(&klp_shadow_lock);
	list_add_tail(&shadow->node, &klp_shadow_list);
	spin_unlock(&klp_shadow_lock);
	return shadow->data;
}
EXPORT_SYMBOL_GPL(klp_shadow_alloc);

void klp_shadow_free(void *obj, unsigned long id, klp_shadow_dtor_t dtor)
{
	struct klp_shadow *shadow = klp_shadow_find(obj, id);

	if (!shadow)
		return;
	spin_lock(&klp_shadow_lock);
	list_del(&shadow->node);
	spin_unlock(&klp_shadow_lock);
	if (dtor)
		dtor(obj, shadow->data);
	kfree(shadow);
}
EXPORT_SYMBOL_GPL(klp_shadow_free);
