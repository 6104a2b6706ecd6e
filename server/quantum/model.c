/* model.c - decoy-state BB84, after Ma, Qi, Zhao and Lo (2005); see model.h. */
#include "model.h"

#include <math.h>

/* Half of the pulses are sifted away: the two sides' bases differ. */
static const double sifting = 0.5;
/* A dark count is wrong every second time. */
static const double dark_error = 0.5;

/* Binary Shannon entropy. */
static double entropy(double p)
{
	if (p <= 0 || p >= 1)
		return 0;
	return -p * log2(p) - (1 - p) * log2(1 - p);
}

/* eta: share of photons that leave the transmitter and are detected. */
static double transmittance(const struct model_link *l)
{
	return l->detector_efficiency * pow(10, -l->attenuation_db_per_km * l->length_km / 10);
}

/* Q: share of pulses of that intensity that make a click. */
static double gain(const struct model_link *l, double intensity)
{
	return l->dark_count + 1 - exp(-transmittance(l) * intensity);
}

/* E Q: share of pulses of that intensity that make a wrong click. */
static double error_gain(const struct model_link *l, double intensity)
{
	return dark_error * l->dark_count + l->misalignment * (1 - exp(-transmittance(l) * intensity));
}

/* Gottesman, Lo, Lütkenhaus and Preskill's rate from the single photons' yield and error. */
static struct model_yield secure_part(const struct model_link *l, double y1, double e1)
{
	double mu = l->signal, q_mu = gain(l, mu);
	struct model_yield yield = { .key_rate = 0, .qber = error_gain(l, mu) / q_mu };
	double q1 = y1 * mu * exp(-mu), rate;

	if (y1 <= 0 || e1 >= 0.5)
		return yield;
	rate = sifting * (-q_mu * l->error_correction * entropy(yield.qber) + q1 * (1 - entropy(e1)));
	if (rate > 0)
		yield.key_rate = rate * l->pulse_rate;
	return yield;
}

struct model_yield model_vacuum_weak(const struct model_link *l)
{
	double mu = l->signal, nu = l->decoy, share = nu * nu / (mu * mu);
	double y1 = mu / (mu * nu - nu * nu) *
	            (gain(l, nu) * exp(nu) - gain(l, mu) * exp(mu) * share - (1 - share) * l->dark_count);
	double e1 = (error_gain(l, nu) * exp(nu) - dark_error * l->dark_count) / (y1 * nu);

	return secure_part(l, y1, e1);
}

struct model_yield model_asymptotic(const struct model_link *l)
{
	double eta = transmittance(l);
	double y1 = l->dark_count + eta - l->dark_count * eta;
	double e1 = (dark_error * l->dark_count + l->misalignment * eta) / y1;

	return secure_part(l, y1, e1);
}

double model_best_signal(double misalignment, double error_correction)
{
	double h = entropy(misalignment), target = error_correction * h / (1 - h), low = 0, high = 1;

	while (high - low > 1e-9) { /* (1 - mu) exp(-mu) falls from 1 to 0 */
		double mu = (low + high) / 2;

		if ((1 - mu) * exp(-mu) > target)
			low = mu;
		else
			high = mu;
	}
	return low;
}
