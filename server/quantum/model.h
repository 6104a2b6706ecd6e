/*
 * model.h - what a decoy-state BB84 link yields: secret key rate and quantum bit error ratio from
 * length, loss, detectors. Pure functions; nothing here is random.
 *
 * Source: X. Ma, B. Qi, Y. Zhao, H.-K. Lo, "Practical decoy state for quantum key distribution",
 * Physical Review A 72, 012326 (2005), arXiv:quant-ph/0503005: one signal state, a weak decoy and
 * the vacuum, infinitely long keys. The defaults of qkdn-quantumd are the paper's "GYS" column but for
 * the pulse rate.
 */
#ifndef QKDN_QUANTUM_MODEL_H
#define QKDN_QUANTUM_MODEL_H

#include "base.h"

struct model_link {
	double length_km;
	double attenuation_db_per_km; /* alpha */
	double detector_efficiency;   /* eta_Bob: the receiver's optics and detector together */
	double dark_count;            /* Y0: clicks without a photon, per pulse */
	double misalignment;          /* e_detector: share of photons at the wrong detector */
	double error_correction;      /* f(e) >= 1: bits spent over the Shannon limit */
	double signal;                /* mu: mean photon number of the signal state */
	double decoy;                 /* nu: of the weak decoy; 0 < nu < mu */
	double pulse_rate;            /* signal pulses a second */
};

struct model_yield {
	double key_rate; /* secret bits a second; 0 where nothing is secure */
	double qber;     /* E_mu, 0 to 0.5 */
};

/* What two parties get who know only the gains of signal, decoy and vacuum. */
struct model_yield model_vacuum_weak(const struct model_link *link);

/* The same with infinitely many decoys: the limit that the paper compares with. */
struct model_yield model_asymptotic(const struct model_link *link);

/* The signal intensity that is best at long distance: the root of
 * (1 - mu) exp(-mu) = f H2(e) / (1 - H2(e)), the paper's equation for mu_optimal. */
double model_best_signal(double misalignment, double error_correction);

#endif
