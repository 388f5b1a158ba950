/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef __SOUND_PCM_H
#define __SOUND_PCM_H

#include <linux/list.h>

struct snd_pcm {
	struct list_head list;
	unsigned int state;
	const char *id;
};

const char *snd_pcm_state_name(unsigned int state);
int snd_pcm_start(struct snd_pcm *pcm);

#endif
