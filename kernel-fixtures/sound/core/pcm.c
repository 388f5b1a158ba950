// SPDX-License-Identifier: GPL-2.0-or-later
#include <linux/module.h>
#include <linux/list.h>
#include <sound/pcm.h>

static LIST_HEAD(snd_pcm_devices);

static const char * const snd_pcm_state_names[] = { "OPEN", "SETUP", "PREPARED", "RUNNING" };

const char *snd_pcm_state_name(unsigned int state)
{
	return state < ARRAY_SIZE(snd_pcm_state_names) ? snd_pcm_state_names[state] : "UNKNOWN";
}
EXPORT_SYMBOL_GPL(snd_pcm_state_name);

static int __init alsa_pcm_init(void)
{
	return list_empty(&snd_pcm_devices) ? 0 : -EBUSY;
}

static void __exit alsa_pcm_exit(void)
{
}

module_init(alsa_pcm_init);
module_exit(alsa_pcm_exit);
MODULE_LICENSE("GPL");
