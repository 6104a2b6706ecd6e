/* test_quantum_model.c - the link model against the figures its source publishes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>

#include "../../server/quantum/model.h"

/* Table I of the source, column GYS (Gobby, Yuan, Shields 2004), intensities as in its Figure 2. */
static const struct model_link gys = {
	.attenuation_db_per_km = 0.21,
	.detector_efficiency = 0.045,
	.dark_count = 1.7e-6,
	.misalignment = 0.033,
	.error_correction = 1.22,
	.signal = 0.48,
	.decoy = 0.05,
	.pulse_rate = 2e6,
};

static struct model_yield at(double km, struct model_yield (*model)(const struct model_link *))
{
	struct model_link l = gys;

	l.length_km = km;
	return model(&l);
}

static double reach(struct model_yield (*model)(const struct model_link *))
{
	double low = 0, high = 500;

	while (high - low > 1e-3) {
		double km = (low + high) / 2;

		if (at(km, model).key_rate > 0)
			low = km;
		else
			high = km;
	}
	return low;
}

static void assert_near(double is, double should, double within)
{
	if (fabs(is - should) > within)
		fail_msg("%g is not within %g of %g", is, within, should);
}

static void secure_distances_are_the_published_ones(void **state)
{
	(void)state;
	assert_near(reach(model_asymptotic), 142.0, 0.5); /* "maximal secure distance … 142 km" */
	assert_near(reach(model_vacuum_weak), 140.5, 0.5); /* vacuum and a decoy of 0.05 */
}

static void best_signals_are_the_published_ones(void **state)
{
	(void)state;
	assert_near(model_best_signal(0.033, 1.0), 0.54, 0.005);
	assert_near(model_best_signal(0.033, 1.22), 0.48, 0.005);
}

/* The curve of the source's figure: about 10^-3 a pulse at 20 km, straight on a logarithmic
 * scale with the fibre's slope, until dark counts bend it down. */
static void the_curve_has_its_shape(void **state)
{
	double r20 = at(20, model_vacuum_weak).key_rate, r50 = at(50, model_vacuum_weak).key_rate;

	(void)state;
	assert_near(log10(r20 / gys.pulse_rate), -3, 0.1);
	assert_near(10 * log10(r20 / r50), 30 * 0.21, 0.1);
	assert_true(at(139, model_vacuum_weak).key_rate < r50 / 100);
	assert_true(at(200, model_vacuum_weak).key_rate == 0);
}

static void fewer_decoys_never_yield_more(void **state)
{
	(void)state;
	for (double km = 0; km < 160; km += 1)
		assert_true(at(km, model_vacuum_weak).key_rate <= at(km, model_asymptotic).key_rate);
}

static void errors_grow_with_distance(void **state)
{
	(void)state;
	assert_near(at(0, model_vacuum_weak).qber, 0.033, 0.0005);
	assert_near(at(140, model_vacuum_weak).qber, 0.063, 0.0005); /* E_mu by the source's equation for it */
	assert_near(at(400, model_vacuum_weak).qber, 0.5, 0.01);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(secure_distances_are_the_published_ones),
		cmocka_unit_test(best_signals_are_the_published_ones),
		cmocka_unit_test(the_curve_has_its_shape),
		cmocka_unit_test(fewer_decoys_never_yield_more),
		cmocka_unit_test(errors_grow_with_distance),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
