// SPDX-License-Identifier: GPL-2.0-or-later
#include <linux/module.h>
#include <sound/pcm.h>

static unsigned int snd_pcm_started;

/* Limit and step are always the same: the symbol is snd_pcm_step.constprop.0. */
static noinline int snd_pcm_step(struct snd_pcm *pcm, unsigned int limit, unsigned int step)
{
	if (pcm->state + step > limit)
		return -EINVAL;
	pcm->state += step;
	snd_pcm_started++;
	pr_info("snd-pcm: %s is %s\n", pcm->id, snd_pcm_state_name(pcm->state));
	return 0;
}

int snd_pcm_start(struct snd_pcm *pcm)
{
	int err = snd_pcm_step(pcm, 3, 1);

	return err ? err : snd_pcm_step(pcm, 3, 1);
}
EXPORT_SYMBOL(snd_pcm_start);
