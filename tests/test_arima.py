"""ARIMA processes as filters, their likelihood, fits, forecasts and gaps; residual diagnostics.

Oracles: dense Gaussian densities of Toeplitz covariances, closed forms, scipy's lfilter; numbers that R prints
(``arima`` on lh and Nile) and that statsmodels 0.15 gives (SARIMAX, ``concentrate_scale=True``, steady-state
tolerance set to zero, optimised by Nelder and Mead to 1e-11), frozen here; and statsmodels where it is installed.
"""

import functools

import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot
from scipy import signal, stats
from scipy.linalg import solve_triangular, toeplitz

from rnndsp.errors import ParameterError
from rnndsp.filters import ARIMA, SOS, ArimaFit, fit_arima, select_order
from rnndsp.filters._arima_likelihood import COMPLETE, DIFFUSE, natural, profile, reflections
from rnndsp.plots import residual_plot
from rnndsp.residuals import residual_diagnostics
from rnndsp.stability import Verdict

matplotlib.use("Agg")


def numbers(text: str) -> np.ndarray:
    return np.fromstring(text, sep=" ")


# Luteinizing hormone in blood, every 10 minutes (Diggle 1990).
LH = (
    numbers("""
    24 24 24 22 21 15 23 23 25 20 19 17 22 18 32 32 27 22 22 19 19 18 27 30 23 20 20 29 29 27 27 23 26 24 18 17
    15 14 21 33 35 35 31 26 21 34 30 29
""")
    / 10
)
# Flow of the Nile at Aswan, 1871 to 1970 (Cobb 1978).
NILE = numbers("""
    1120 1160 963 1210 1160 1160 813 1230 1370 1140 995 935 1110 994 1020 960 1180 799 958 1140 1100 1210 1150
    1250 1260 1220 1030 1100 774 840 874 694 940 833 701 916 692 1020 1050 969 831 726 456 824 702 1120 1100 832
    764 821 768 845 864 862 698 845 744 796 1040 759 781 865 845 944 984 897 822 1010 771 676 649 846 812 742
    801 1040 860 874 848 890 744 749 838 1050 918 986 797 923 975 815 1020 906 901 1170 912 746 919 718 714 740
""")
# Airline passengers, thousands a month, 1949 to 1960 (Box and Jenkins 1970).
AIR = np.log(
    numbers("""
    112 118 132 129 121 135 148 148 136 119 104 118 115 126 141 135 125 149 170 170 158 133 114 140 145 150 178
    163 172 178 199 199 184 162 146 166 171 180 193 181 183 218 230 242 209 191 172 194 196 196 236 235 229 243
    264 272 237 211 180 201 204 188 235 227 234 264 302 293 259 229 203 229 242 233 267 269 270 315 364 347 312
    274 237 278 284 277 317 313 318 374 413 405 355 306 271 306 315 301 356 348 355 422 465 467 404 347 305 336
    340 318 362 348 363 435 491 505 404 359 310 337 360 342 406 396 420 472 548 559 463 407 362 405 417 391 419
    461 472 535 622 606 508 461 390 432
""")
)
NILE_GAPS, AIR_GAPS = NILE.copy(), AIR.copy()
NILE_GAPS[20:40] = NILE_GAPS[60:80] = np.nan
AIR_GAPS[[0, 20, 21, 22, 60, 100]] = np.nan
AIRLINE = {"order": (0, 1, 1), "seasonal": (0, 1, 1, 12)}


def polynomials(process: ARIMA) -> tuple[np.ndarray, np.ndarray]:
    """Of the stationary part, multiplied out."""
    s = process.config["seasonal"][3]

    def spread(block: np.ndarray) -> np.ndarray:
        whole = np.zeros((block.size, max(s, 1)))
        whole[:, -1:] = block[:, None]
        return np.r_[1, whole.ravel()]

    ar, ma, seasonal_ar, seasonal_ma = (process.params[n] for n in ("ar", "ma", "seasonal_ar", "seasonal_ma"))
    return np.convolve(np.r_[1, -ar], spread(-seasonal_ar)), np.convolve(np.r_[1, ma], spread(seasonal_ma))


def autocovariance(process: ARIMA, n: int) -> np.ndarray:
    """From the impulse response."""
    a, b = polynomials(process)
    h = signal.lfilter(b, a, np.eye(1, 20000)[0])
    return np.array([h[: h.size - k] @ h[k:] for k in range(n)])


def density(process: ARIMA, w: np.ndarray) -> float:
    """Log of the Gaussian density of a stationary series, NaN left out, at the best variance: O(n^3)."""
    seen = np.isfinite(w)
    root = np.linalg.cholesky(toeplitz(autocovariance(process, w.size))[np.ix_(seen, seen)])
    e = solve_triangular(root, w[seen], lower=True)
    n = e.size
    return float(-0.5 * n * (np.log(2 * np.pi * (e @ e) / n) + 1) - np.sum(np.log(np.diagonal(root))))


def differenced(y: np.ndarray, lags: list[int]) -> np.ndarray:
    for lag in lags:
        y = y[lag:] - y[:-lag]
    return y


PROCESSES = {
    "white": ARIMA(),
    "arma": ARIMA([0.5, 0.3], [0.4]),
    "near unit roots": ARIMA([1.98, -0.985], [-0.99]),
    "not invertible": ARIMA([0.5], [2.0, 0.3]),
    "seasonal": ARIMA([0.4, -0.2, 0.1], [0.3], seasonal_ar=[0.5], seasonal_ma=[0.4], season=12),
    "overlapping": ARIMA([0.3, 0.1, 0.2, -0.1, 0.2], [0.1], seasonal_ar=[0.3, 0.2], seasonal_ma=[-0.6], season=3),
    "long": ARIMA([0.4], [0.3], seasonal_ar=[0.5], seasonal_ma=[0.4], season=52),
}


@pytest.mark.parametrize("name", PROCESSES)
def test_the_likelihood_is_the_gaussian_density(name):
    process = PROCESSES[name]
    rng = np.random.default_rng(1)
    y = 0.3 * np.cumsum(rng.standard_normal(150)) + rng.standard_normal(150)
    np.testing.assert_allclose(process.log_likelihood(y), density(process, y), rtol=1e-9)
    y[[0, 5, 6, 7, 80, 149]] = np.nan  # then it is Kalman's filter that tells
    np.testing.assert_allclose(process.log_likelihood(y), density(process, y), rtol=1e-9)


def test_a_season_of_a_year_is_the_gaussian_density_too():
    # a dense state would have 366 entries, and its Lyapunov equation 134000 unknowns
    year = ARIMA(ma=[-0.4], d=1, seasonal_ar=[0.2], seasonal_ma=[-0.5], seasonal_d=1, season=365)
    y = year.simulate(900, seed=1)
    w = differenced(y, [1, 365])
    expected = density(ARIMA(ma=[-0.4], seasonal_ar=[0.2], seasonal_ma=[-0.5], season=365), w)
    np.testing.assert_allclose(year.log_likelihood(y), expected - 183 * np.log(2 * np.pi), rtol=1e-10)
    assert year.n_states == 1 + 1 + 2 * 365


def test_the_likelihood_takes_a_given_variance():
    y = np.array([1.0, -0.5, 0.3, np.nan, 0.8])
    expected = stats.norm.logpdf(y[[0, 1, 2, 4]], scale=np.sqrt(0.7)).sum()
    np.testing.assert_allclose(ARIMA().log_likelihood(y, variance=0.7), expected, rtol=1e-13)


@pytest.mark.parametrize("lags", [[1], [1, 1], [4], [1, 4]])
def test_an_exact_diffuse_start_is_differencing(lags):
    coefficients, orders = np.array([0.5, 0.3, -0.4, 0.3]), (1, 1, 1, 1, 4)
    y = np.random.default_rng(2).standard_normal((60, 1))
    w = differenced(y, lags)
    arguments = (coefficients, orders, np.array(lags))
    direct = profile(np.ascontiguousarray(w), np.ones(len(w), bool), *arguments, COMPLETE, -1.0)
    kalman = profile(y, np.ones(60, bool), *arguments, DIFFUSE, -1.0)
    assert kalman[4] == sum(lags)
    np.testing.assert_allclose(kalman[0], direct[0] - 0.5 * sum(lags) * np.log(2 * np.pi), rtol=1e-12)
    np.testing.assert_allclose(kalman[1], direct[1], rtol=1e-11)


@pytest.mark.parametrize(("d", "D"), [(1, 0), (2, 0), (0, 1), (1, 1)])
def test_a_diffuse_start_with_gaps_integrates_them_out(d, D):
    process = ARIMA([0.5], [0.3], d=d, seasonal_ar=[-0.4], seasonal_d=D, season=4)
    y = np.random.default_rng(3).standard_normal(40).cumsum()
    gaps = [1, 2, 9, 20, 21]
    y[gaps] = np.nan
    # the differenced series as function of what is missing, which is integrated out of its density
    lags = [1] * d + [4] * D
    root = np.linalg.cholesky(
        toeplitz(autocovariance(ARIMA([0.5], [0.3], seasonal_ar=[-0.4], season=4), 40 - sum(lags)))
    )
    X = solve_triangular(root, differenced(np.eye(40)[:, gaps], lags), lower=True)
    w = solve_triangular(root, differenced(np.nan_to_num(y), lags), lower=True)
    e = w - X @ np.linalg.lstsq(X, w)[0]
    n, m = w.size, len(gaps)
    expected = -0.5 * (n - m) * (np.log(2 * np.pi * (e @ e) / (n - m)) + 1) - np.sum(np.log(np.diagonal(root)))
    expected -= 0.5 * np.linalg.slogdet(X.T @ X)[1] + 0.5 * sum(lags) * np.log(2 * np.pi)
    np.testing.assert_allclose(process.log_likelihood(y), expected, rtol=1e-10)


# from statsmodels: series, start, ma (and seasonal ma) that are given, log-likelihood; then the optimum:
# log-likelihood, estimates, variance, the first forecasts and their standard errors
FROZEN = {
    "nile": (
        *(NILE, "diffuse", [-0.73], -633.4648930337197, -633.4645636362455, [-0.7329425217911036], 20599.86703311136),
        *([798.3672959658926] * 4, [143.52653773122017, 148.55653234139348, 153.42170501427626, 158.13726897121919]),
    ),
    "nile approximate": (
        *(NILE, "approximate", [-0.73], -632.5459537887903, -632.5456243830845, [-0.7329426269578031]),
        *(20599.86677599953, [798.3673292592465] * 4),
        [143.52653683552575, 148.55652751977416, 153.42169651476058, 158.1372570085911],
    ),
    "nile with gaps": (
        *(NILE_GAPS, "diffuse", [-0.73], -381.4659022717925, -380.92666765432534, [-0.8224814183251565]),
        *(21763.21816581195, [829.3831962492934] * 4),
        [147.5299719906049, 149.83628931720813, 152.1076413503001, 154.3455717471446],
    ),
    "nile with gaps approximate": (
        *(NILE_GAPS, "approximate", [-0.73], -380.5469630399399, -380.007727888139, [-0.8224816762307968]),
        *(21763.217802409974, [829.3832905308858] * 4),
        [147.52997082681915, 149.8362814832925, 152.10762704519067, 154.34555115680263],
    ),
    "air": (
        *(AIR, "diffuse", [-0.4, -0.55], 232.74535019148635, 232.7502859012003),
        *([-0.40182315078263475, -0.5569364885479702], 0.0013480989970452465),
        [6.110185596500192, 6.053774841972019, 6.171713760091096, 6.199300341344771],
        [0.03671649643060234, 0.04278401744356903, 0.04809202831119523, 0.05286978556376021],
    ),
    "air approximate": (
        *(AIR, "approximate", [-0.4, -0.55], 244.69166342628017, 244.69659971575365),
        *([-0.40182391489601127, -0.5569350332564093], 0.0013480970065678087),
        [6.110185621789551, 6.0537748183672875, 6.171713620727699, 6.19930037514612],
        [0.03671646932286782, 0.04278397145436498, 0.04809196718037607, 0.0528697115667262],
    ),
    "air with gaps": (
        *(AIR_GAPS, "diffuse", [-0.4, -0.55], 221.85281508088917, 221.85303466294351),
        *([-0.39813331699675786, -0.5501082375026001], 0.0013129994382341241),
        [6.109940678975482, 6.0534348063305305, 6.170830462268081, 6.199229200666156],
        [0.03623691171091738, 0.04229217046535524, 0.04758417169317131, 0.05234385454644837],
    ),
    "air with gaps approximate": (
        *(AIR_GAPS, "approximate", [-0.4, -0.55], 229.634496133685, 229.63474814487583),
        *([-0.39802366101684117, -0.5504530588657208], 0.0013026065449064437),
        [6.109936564727184, 6.0534423089022535, 6.170865423425692, 6.199223152523684],
        [0.0360932222374431, 0.04212649997057386, 0.04739910243173455, 0.05214122958750802],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FROZEN)
def test_likelihood_estimates_and_forecasts_of_statsmodels(name):
    y, start, given, at_given, best, estimates, variance, mean, error = FROZEN[name]
    if len(given) == 2:
        model, process = AIRLINE, ARIMA(ma=given[:1], d=1, seasonal_ma=given[1:], seasonal_d=1, season=12)
    else:
        model, process = {"order": (0, 1, 1)}, ARIMA(ma=given, d=1)
    np.testing.assert_allclose(process.log_likelihood(y, start=start), at_given, rtol=1e-10)
    fit = fit_arima(y, **model, start=start)
    assert fit.converged
    np.testing.assert_allclose(fit.log_likelihood, best, rtol=1e-10)
    # thirteen levels of a large variance take digits from both: 2e-6 in a parameter is 4e-10 in the likelihood
    close = 4e-6 if name == "air approximate" else 1e-6
    np.testing.assert_allclose(list(fit.estimates.values()), estimates, atol=close)
    np.testing.assert_allclose(fit.variance, variance, rtol=close)
    forecast = fit.forecast(4)
    np.testing.assert_allclose(forecast.mean, mean, rtol=1e-6)
    np.testing.assert_allclose(forecast.standard_error, error, rtol=1e-6)
    np.testing.assert_allclose(forecast.upper - forecast.mean, 1.959963984540054 * forecast.standard_error)


def test_two_differences_and_a_seasonal_one_as_statsmodels_counts_them():
    process = ARIMA([0.2, -0.3], [-0.5], d=2, seasonal_ar=[0.4], seasonal_d=1, season=4)
    np.testing.assert_allclose(process.log_likelihood(AIR_GAPS), -6.1675814221158305, rtol=1e-9)
    np.testing.assert_allclose(process.log_likelihood(AIR_GAPS, start="approximate"), -6.119769367956678, rtol=1e-9)


def test_what_r_prints():
    # arima(lh, order = c(1,0,0)), c(3,0,0), c(1,0,1); arima(Nile, c(0,1,1)), whose likelihood is that of differences
    printed = (
        (LH, (1, 0, 0), [0.5739, 2.4133], [0.1161, 0.1466], 0.1975, -29.38),
        (LH, (3, 0, 0), [0.6448, -0.0634, -0.2198, 2.3931], [0.1394, 0.1668, 0.1421, 0.0963], 0.1787, -27.09),
        (LH, (1, 0, 1), [0.4522, 0.1982, 2.4101], [0.1769, 0.1705, 0.1358], 0.1923, -28.76),
        (NILE, (0, 1, 1), [-0.7329], [0.1143], 20600, -632.55 - 0.92),
    )
    for y, order, estimates, errors, variance, log_likelihood in printed:
        fit = fit_arima(y, order=order)
        np.testing.assert_allclose(list(fit.estimates.values()), estimates, atol=5.1e-5)
        # R has errors from the curvature in all of them at once
        np.testing.assert_allclose(list(fit.standard_errors.values()), errors, atol=4e-4)
        np.testing.assert_allclose(fit.variance, variance, rtol=3e-4)
        np.testing.assert_allclose(fit.log_likelihood, log_likelihood, atol=6e-3)
    assert list(fit_arima(LH, order=(1, 0, 1)).estimates) == ["ar1", "ma1", "mean"]


def test_criteria():
    fit = fit_arima(LH)
    # ar1, mean, variance
    np.testing.assert_allclose(fit.aic, 2 * 3 + 2 * 29.37916238626385)
    np.testing.assert_allclose(fit.aicc, fit.aic + 2 * 3 * 4 / (48 - 4))
    np.testing.assert_allclose(fit.bic, 3 * np.log(48) + 2 * 29.37916238626385)


def test_live_statsmodels():
    sarimax = pytest.importorskip("statsmodels.tsa.statespace.sarimax")
    published = pytest.importorskip("statsmodels.tsa.statespace.tests.results.results_sarimax")
    rng = np.random.default_rng(4)
    y = ARIMA(ma=[-0.4], d=1, seasonal_ar=[0.3], seasonal_ma=[-0.5], season=52).simulate(220, seed=5)
    y[rng.random(220) < 0.1] = np.nan
    exog = rng.standard_normal((220, 2))
    setting = {"order": (1, 1, 1), "seasonal_order": (1, 0, 1, 52), "use_exact_diffuse": True}
    model = sarimax.SARIMAX(y, exog=exog, **setting)
    fit = fit_arima(y, order=(1, 1, 1), seasonal=(1, 0, 1, 52), exog=exog)
    kinds = ("exog1", "exog2", "ar1", "ma1", "seasonal_ar1", "seasonal_ma1")
    params = [*(fit.estimates[kind] for kind in kinds), fit.variance]
    theirs = model.filter(params)
    np.testing.assert_allclose(fit.log_likelihood, theirs.llf, rtol=1e-9)
    # at the best of all params its slope vanishes
    assert np.max(np.abs(model.score(params, approx_complex_step=False, approx_centered=True))) < 1e-3
    e = theirs.filter_results.standardized_forecasts_error[0] * np.sqrt(fit.variance)
    seen = np.isfinite(fit.residuals)
    np.testing.assert_allclose(fit.residuals[seen], e[seen], atol=1e-8)
    future = rng.standard_normal((5, 2))
    expected, ours = theirs.get_forecast(5, exog=future), fit.forecast(5, exog=future)
    np.testing.assert_allclose(ours.mean, expected.predicted_mean, rtol=1e-8)
    np.testing.assert_allclose(ours.standard_error, expected.se_mean, rtol=1e-8)

    # what Stata prints, as statsmodels ships it
    stata = published.wpi1_stationary
    drift = fit_arima(np.array(published.wpi1_data), order=(1, 1, 1), trend="t")
    np.testing.assert_allclose(drift.log_likelihood + 0.5 * np.log(2 * np.pi), stata["loglike"], atol=1e-4)
    expected = [stata["params_ar"][0], stata["params_ma"][0], stata["params_mean"][0]]
    np.testing.assert_allclose(list(drift.estimates.values()), expected, atol=2e-4)
    errors = [stata["se_ar_oim"][0], stata["se_ma_oim"][0]]
    np.testing.assert_allclose(list(drift.standard_errors.values())[:2], errors, rtol=2e-2)
    stata = published.friedman2_mle
    money = fit_arima(stata["data"]["consump"], order=(1, 0, 1), exog=stata["data"]["m2"])
    np.testing.assert_allclose(money.log_likelihood, stata["loglike"], atol=1e-4)
    expected = [stata["params_ar"][0], stata["params_ma"][0], *stata["params_exog"]]
    np.testing.assert_allclose(list(money.estimates.values()), expected, rtol=2e-3)
    stata = published.air2_stationary
    air = fit_arima(np.log(published.air2_data), **AIRLINE)
    np.testing.assert_allclose(air.log_likelihood + 6.5 * np.log(2 * np.pi), stata["loglike"], atol=1e-5)
    errors = [stata["se_ma_oim"][0], stata["se_seasonal_ma_oim"][0]]
    np.testing.assert_allclose(list(air.standard_errors.values()), errors, rtol=2e-3)


# ---- the parametrisation


def test_any_numbers_give_a_stationary_invertible_process():
    rng = np.random.default_rng(6)
    for _ in range(50):
        orders = (*rng.integers(0, 4, 4).tolist(), 4)
        x = 3 * rng.standard_normal(sum(orders[:4]))
        blocks = np.split(natural(x, orders), np.cumsum(orders[:3]))
        for i, block in enumerate(blocks):
            roots = np.roots(np.r_[1, block if i % 2 else -block])
            assert np.all(np.abs(roots) < 1)
        k = np.concatenate([reflections(-block if i % 2 else block) for i, block in enumerate(blocks)])
        np.testing.assert_allclose(k, x / np.sqrt(1 + x**2), atol=1e-8)


# ---- the filter


def test_the_filter_is_the_product_of_its_polynomials():
    process = ARIMA([0.5, -0.2], [0.4], d=1, seasonal_ar=[0.3], seasonal_ma=[0.2, 0.1], seasonal_d=1, season=4)
    a, b = polynomials(process)
    a = np.convolve(np.convolve(a, [1, -1]), [1, 0, 0, 0, -1])
    e = np.random.default_rng(7).standard_normal(300)
    y = process(e)
    np.testing.assert_allclose(y, signal.lfilter(b, a, e), rtol=1e-9, atol=1e-9)
    whitening = process.whiten()
    np.testing.assert_allclose(whitening(y), e, atol=1e-10)
    np.testing.assert_allclose(whitening(y), signal.lfilter(a, b, y), atol=1e-10)
    # ... in delay lines, one a seasonal tap
    assert sorted(process.fields[0].rings) == [1, 1, 1, 4, 4, 4]
    assert ARIMA(ma=[-0.4], d=1, seasonal_ma=[-0.5], seasonal_d=1, season=365).fields[0].rings == (365, 365, 1, 1)


def test_poles_of_differences_are_marginal_by_design():
    report = ARIMA(ma=[-0.4], d=1, seasonal_ma=[-0.5], seasonal_d=1, season=12).stability()
    assert report["bounded output"].verdict == Verdict.MARGINAL
    assert report["decay"].verdict == Verdict.MARGINAL
    assert ARIMA([0.5], [3.0]).stability()["bounded output"].verdict == Verdict.PROVED
    assert ARIMA([0.5], d=2).marginal_poles == (1, 1)
    np.testing.assert_allclose(sorted(ARIMA([0.5], seasonal_ar=[0.25], season=2).poles().real), [-0.5, 0.5, 0.5])


def test_a_filter_composes():
    tone = ARIMA([1.2, -0.5]) >> SOS(signal.butter(2, 0.2, output="sos"))
    e = np.random.default_rng(8).standard_normal(100)
    expected = signal.lfilter(*signal.butter(2, 0.2), signal.lfilter([1], [1, -1.2, 0.5], e))
    np.testing.assert_allclose(tone(e), expected, atol=1e-12)


# ---- simulation and forecasts


@pytest.mark.parametrize("name", ["arma", "seasonal", "long"])
def test_simulation_is_the_root_of_the_covariance_times_noise(name):
    process = PROCESSES[name]
    noise = np.random.default_rng(9).standard_normal(200)
    root = np.linalg.cholesky(toeplitz(autocovariance(process, 200)))
    np.testing.assert_allclose(process.simulate(200, variance=4.0, seed=9), 2 * root @ noise, atol=1e-9)
    level = ARIMA(process.params["ar"], process.params["ma"], d=1)
    flat = ARIMA(process.params["ar"], process.params["ma"])
    np.testing.assert_allclose(level.simulate(20, seed=1), np.cumsum(flat.simulate(20, seed=1)))
    seasonal = ARIMA(seasonal_d=1, season=7).simulate(30, seed=1)
    np.testing.assert_allclose(np.r_[seasonal[:7], seasonal[7:] - seasonal[:-7]], ARIMA().simulate(30, seed=1))


def test_forecasts_in_closed_form():
    fit = fit_arima(LH)
    phi, mean = fit.estimates["ar1"], fit.estimates["mean"]
    h = np.arange(1, 6)
    forecast = fit.forecast(5, level=0.8)
    np.testing.assert_allclose(forecast.mean, mean + phi**h * (LH[-1] - mean), rtol=1e-12)
    error = np.sqrt(fit.variance * (1 - phi ** (2 * h)) / (1 - phi**2))
    np.testing.assert_allclose(forecast.standard_error, error, rtol=1e-12)
    np.testing.assert_allclose(forecast.lower, forecast.mean - stats.norm.ppf(0.9) * error, rtol=1e-12)
    # a walk with drift goes on as it went; missing values at the end are forecast too
    walk = fit_arima(NILE, order=(0, 1, 0), trend="t")
    slope = (NILE[-1] - NILE[0]) / 99
    np.testing.assert_allclose(walk.estimates["trend"], slope, rtol=1e-10)
    np.testing.assert_allclose(walk.forecast(3).mean, NILE[-1] + slope * h[:3], rtol=1e-10)
    np.testing.assert_allclose(walk.forecast(3).standard_error, np.sqrt(walk.variance * h[:3]), rtol=1e-10)
    later = fit_arima(np.r_[LH, np.nan, np.nan], order=(1, 0, 0))
    np.testing.assert_allclose(later.forecast(3).mean, forecast.mean[2:], rtol=1e-7)


def test_regressors_by_generalised_least_squares():
    # white innovations: ordinary regression, with its standard errors
    rng = np.random.default_rng(10)
    X = rng.standard_normal((80, 2)) * [1, 1000]
    y = 1e6 + X @ [2, -0.003] + rng.standard_normal(80)
    fit = fit_arima(y, order=(0, 0, 0), exog=X)
    design = np.column_stack([np.ones(80), X])
    beta = np.linalg.lstsq(design, y - 1e6)[0] + [1e6, 0, 0]
    np.testing.assert_allclose(list(fit.estimates.values()), beta, rtol=1e-9)
    squares = np.sum((y - design @ beta) ** 2)
    np.testing.assert_allclose(fit.variance, squares / 80, rtol=1e-9)
    errors = np.sqrt(np.diagonal(np.linalg.inv(design.T @ design)) * squares / 80)
    np.testing.assert_allclose(list(fit.standard_errors.values()), errors, rtol=1e-9)
    np.testing.assert_allclose(fit.residuals, y - design @ beta, atol=1e-8)
    future = [[1.0, 2.0]]
    np.testing.assert_allclose(fit.forecast(1, exog=future).mean, beta @ [1, 1, 2], rtol=1e-12)
    simulated = fit.simulate(1, exog=future, seed=3)
    np.testing.assert_allclose(simulated, beta @ [1, 1, 2] + fit.filter.simulate(1, variance=fit.variance, seed=3))
    # the straight line starts at time 1
    line = fit_arima(3 + 0.5 * np.arange(1, 81) + rng.standard_normal(80), order=(1, 0, 0), trend="ct")
    np.testing.assert_allclose([line.estimates["mean"], line.estimates["trend"]], [3, 0.5], atol=0.6)


def test_a_fit_finds_what_it_was_made_from():
    truth = ARIMA([0.6, -0.3], [0.5], seasonal_ma=[0.4], season=6)
    fit = fit_arima(truth.simulate(5000, variance=2.0, seed=11), order=(2, 0, 1), seasonal=(0, 0, 1, 6), trend="n")
    errors = np.array(list(fit.standard_errors.values()))
    assert np.all(np.abs(np.array(list(fit.estimates.values())) - [0.6, -0.3, 0.5, 0.4]) < 3 * errors)
    assert np.all(errors < 0.04)
    np.testing.assert_allclose(fit.variance, 2, rtol=0.06)
    # innovations come back, and are white
    assert np.min(fit.diagnostics().p_value[4:]) > 0.01
    again = fit_arima(fit.y, order=(2, 0, 1), seasonal=(0, 0, 1, 6), trend="n", initial={"ar": [0.5, 0.0], "ma": [0.1]})
    np.testing.assert_allclose(list(again.estimates.values()), list(fit.estimates.values()), atol=1e-6)


def test_a_moving_average_at_the_edge_is_no_crash():
    # noise differenced once too often
    fit = fit_arima(np.diff(np.random.default_rng(12).standard_normal(100)), order=(0, 0, 1), trend="n")
    assert -1 <= fit.estimates["ma1"] < -0.999
    assert not any(np.isnan(error) for error in fit.standard_errors.values())
    assert np.isfinite(fit.forecast(3).standard_error).all()


def test_the_order_of_the_smallest_aicc():
    y = ARIMA([0.7, -0.5]).simulate(400, seed=13)
    chosen = select_order(y, max_p=2, max_q=1)
    assert chosen.orders[4] == ((2, 0, 0), (0, 0, 0, 0))
    assert np.argmin(chosen.aicc) == 4
    assert chosen.best.filter.params["ar"].size == 2
    np.testing.assert_allclose(chosen.aicc[1], fit_arima(y, order=(0, 0, 1)).aicc)
    # of a few values, those orders that they can bear
    few = select_order(LH[:7], max_p=3, max_q=2)
    assert np.isinf(few.aicc[-1])
    assert np.isfinite(few.best.aicc)


# ---- bad input

START = {"ar": [1.1]}


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: ARIMA([1.1]), "ar is not stationary, a root has magnitude 1.1"),
        (lambda: ARIMA([1.0]), "give unit roots as differences, d=1"),
        (lambda: ARIMA(seasonal_ar=[0.5, 0.6], season=4), "seasonal_ar is not stationary"),
        (lambda: ARIMA(seasonal_ar=[0.5]), "needs a season of at least 2"),
        (lambda: ARIMA([np.nan]), "NaN"),
        (lambda: ARIMA([[0.5]]), "list of real"),
        (lambda: ARIMA(["x"]), "list of real"),
        (lambda: ARIMA(d=-1), "whole number"),
        (lambda: ARIMA(d=5), "more than 4"),
        (lambda: ARIMA(ma=[2.0]).whiten(), "ma is not invertible, a root has magnitude 2"),
        (lambda: ARIMA().simulate(0), "n_frames"),
        (lambda: ARIMA().simulate(3, variance=-1), "variance"),
        (lambda: ARIMA().log_likelihood(LH, variance=0), "variance"),
        (lambda: fit_arima(np.full(50, np.nan)), "no value that is not NaN"),
        (lambda: fit_arima(np.full(50, 3.0)), "does not vary"),
        (lambda: fit_arima(np.zeros(50)), "does not vary"),
        (lambda: fit_arima(np.arange(50.0), order=(1, 1, 0), trend="t"), "does not vary"),
        (lambda: fit_arima(0.1 * np.arange(50.0) ** 2, order=(1, 3, 0)), "does not vary"),
        (lambda: fit_arima(np.r_[LH, np.inf]), "infinite at sample 48"),
        (lambda: fit_arima(LH[:3]), "too few"),
        (lambda: fit_arima(np.zeros(0)), "no value"),
        (lambda: fit_arima(LH, seasonal=(0, 2, 0, 24)), "too few"),
        (lambda: fit_arima(LH[:, None]), "one series"),
        (lambda: fit_arima(LH, order=(1, 0)), "must be (p, d, q)"),
        (lambda: fit_arima(LH, order=(1, 0, -1)), "order[2]"),
        (lambda: fit_arima(LH, trend="x"), "trend"),
        (lambda: fit_arima(LH, start="x"), "start"),
        (lambda: fit_arima(LH, initial=START), "initial: ar is not stationary, a root has magnitude 1.1"),
        (lambda: fit_arima(LH, order=(0, 0, 1), initial={"ma": [-2]}), "initial: ma is not invertible"),
        (lambda: fit_arima(LH, initial={"phi": [0]}), "unknown name"),
        (lambda: fit_arima(LH, initial={"ar": [0, 0]}), "must have (1,)"),
        (lambda: fit_arima(LH, order=(1, 1, 0), trend="c"), "mean depends on those before it, or is wiped out"),
        (lambda: fit_arima(LH, exog=np.ones(48)), "exog column 0 depends"),
        (lambda: fit_arima(LH, exog=np.ones(47)), "48 samples"),
        (lambda: fit_arima(LH, exog=np.full(48, np.nan)), "exog holds NaN"),
        (lambda: fit_arima(LH).forecast(3, exog=np.ones(3)), "the fit had 0"),
        (lambda: fit_arima(LH).forecast(0), "n_frames"),
        (lambda: fit_arima(LH).forecast(2, level=1), "level"),
        # every fourth value is missing, so one phase of the season has no level
        (lambda: fit_arima(np.where(np.arange(48) % 4 == 1, np.nan, LH), seasonal=(0, 1, 0, 4)), "levels open"),
        (lambda: ARIMA(seasonal_ma=[0.1], season=6000).log_likelihood(np.r_[LH, np.nan, 1]), "more than 5000"),
        (lambda: ARIMA(seasonal_ar=[0.1], season=10**6).log_likelihood(LH), "more than 20000"),
        (lambda: ARIMA(seasonal_ar=[0.1], season=10**6).simulate(3), "more than 20000"),
        (lambda: ARIMA(seasonal_d=1, season=10**9), "would remember"),
        (lambda: select_order(LH[:2], max_p=1, max_q=1), "too few"),
        (lambda: residual_diagnostics(np.zeros(9)), "nothing to test"),
        (lambda: residual_diagnostics(np.ones(9), n_lags=9), "n_lags"),
    ],
)  # fmt: skip
def test_bad_input(call, said):
    with pytest.raises(ParameterError) as error:
        call()
    assert said in str(error.value)


# ---- diagnostics


def test_residual_diagnostics():
    e = np.sin(0.7 * np.arange(60) ** 2) + 0.3 * np.cos(np.arange(60))
    e -= e.mean()
    found = residual_diagnostics(e, n_lags=6, n_coefficients=2)
    np.testing.assert_allclose(found.autocorrelation[2], e[3:] @ e[:-3] / (e @ e), rtol=1e-12)
    # acorr_ljungbox of statsmodels, lags 3 and 6, model_df 2
    np.testing.assert_allclose(found.statistic[[2, 5]], [1.5356869285797945, 2.078981598110372], rtol=1e-12)
    np.testing.assert_allclose(found.p_value[[2, 5]], [0.21526094066378706, 0.7212347316576797], rtol=1e-10)
    assert np.isnan(found.p_value[:2]).all()
    np.testing.assert_allclose(found.band, 1.96 / np.sqrt(60))


@functools.cache
def too_simple() -> ArimaFit:
    return fit_arima(AIR_GAPS, order=(1, 1, 0))


def test_residual_plot():
    fit = too_simple()
    series, quantiles, correlations, p_values = residual_plot(fit.diagnostics(), sample_rate=12.0)
    found = fit.diagnostics()
    np.testing.assert_array_equal(series.get_ydata(), found.residuals)
    np.testing.assert_allclose(series.get_xdata()[12], 1)
    np.testing.assert_array_equal(quantiles.get_ydata(), np.sort(found.residuals[np.isfinite(found.residuals)]))
    heights = [segment[1, 1] for segment in correlations.get_segments()]
    np.testing.assert_allclose(heights, found.autocorrelation)
    assert np.argmax(heights) == 11  # the season that the model knows nothing of
    assert len(p_values.get_xdata()) == np.count_nonzero(np.isfinite(found.p_value))
    axes = pyplot.subplots(1, 4)[1]
    residual_plot(found, ax=tuple(axes))
    assert all(ax.get_title() for ax in axes)
    with pytest.raises(ParameterError, match="is no ResidualDiagnostics"):
        residual_plot(found.residuals)
    pyplot.close("all")


# ---- gaps


def dense_gaps(fit: ArimaFit) -> tuple[np.ndarray, np.ndarray]:
    """Mean and error of missing values of a stationary fit, by the covariance of all."""
    n, missing = len(fit.y), np.isnan(fit.y)
    h = fit.filter(np.eye(1, 4000)[0])
    covariance = fit.variance * toeplitz([h[i:] @ h[: h.size - i] for i in range(n)])
    weights = np.linalg.solve(covariance[~missing][:, ~missing], covariance[~missing][:, missing])
    mean = fit.estimates["mean"] + (fit.y[~missing] - fit.estimates["mean"]) @ weights
    left = covariance[missing][:, missing] - covariance[missing][:, ~missing] @ weights
    return mean, np.sqrt(np.diagonal(left))


def test_gaps_are_filled_as_a_gaussian_is():
    y = np.r_[np.nan, LH[1:20], np.nan, np.nan, LH[22:25], np.nan, LH[26:], np.nan]
    fit = fit_arima(y, order=(1, 0, 1))
    mean, error = dense_gaps(fit)
    found, missing = fit.fill(), np.isnan(y)
    np.testing.assert_allclose(found.mean[missing], mean, rtol=1e-12)
    np.testing.assert_allclose(found.standard_error[missing], error, rtol=1e-10)
    np.testing.assert_array_equal(found.mean[~missing], y[~missing])
    assert not found.standard_error[~missing].any()
    # from the past alone each gap is a forecast
    past, ahead = fit.fill(past_only=True, level=0.5), fit.forecast(1, level=0.5)
    np.testing.assert_allclose(past.mean[0], fit.estimates["mean"])
    np.testing.assert_allclose(
        [past.mean[-1], past.lower[-1]], [found.mean[-1], found.mean[-1] - 0.6744897501960817 * error[-1]]
    )
    assert (
        np.all(past.standard_error >= found.standard_error - 1e-12) and ahead.standard_error > past.standard_error[-1]
    )


def test_gaps_of_a_season_are_those_of_statsmodels():
    sarimax = pytest.importorskip("statsmodels.tsa.statespace.sarimax")
    fit = fit_arima(AIR_GAPS, **AIRLINE)
    orders = {"order": (0, 1, 1), "seasonal_order": (0, 1, 1, 12)}
    model = sarimax.SARIMAX(AIR_GAPS, **orders, use_exact_diffuse=True)
    smoothed = model.smooth([*fit.estimates.values(), fit.variance]).smoother_results
    design = smoothed.design[0, :, 0]
    found, missing = fit.fill(), np.isnan(AIR_GAPS)
    np.testing.assert_allclose(found.mean[missing], (design @ smoothed.smoothed_state)[missing], rtol=1e-10)
    variance = np.einsum("i,ijt,j->t", design, smoothed.smoothed_state_cov, design)
    np.testing.assert_allclose(found.standard_error[missing], np.sqrt(variance[missing]), rtol=1e-8)
    # the first year's level is open to the past, not to what follows
    past = fit.fill(past_only=True)
    assert np.isnan(past.mean[0]) and np.isinf(past.standard_error[0]) and np.isfinite(past.mean[20])
    np.testing.assert_allclose(past.mean[20], smoothed.forecasts[0, 20], rtol=1e-10)


def test_gaps_of_a_year_need_no_dense_state():
    """At s = 6000 the covariance of the state would take more than is allowed; filling does not keep one."""
    process = ARIMA(seasonal_ma=[-0.6], seasonal_d=1, season=6000)
    y = process.simulate(18_000, seed=2)
    gaps = y.copy()
    gaps[[0, 7000, 7001, 17_999]] = np.nan
    fit = ArimaFit(
        process, 1.0, {"seasonal_ma1": -0.6}, {}, 0.0, 1, gaps, True, gaps, np.zeros((18_000, 0)), "n", "diffuse"
    )
    found = fit.fill()
    # three years by the same phase: y, y + e2 - .6 e1, ... with the level open
    for i, j in ((0, 0), (7000, 1), (17_999, 2)):
        years = y[i % 6000 :: 6000]
        D = np.diff(np.eye(3), axis=0)
        W = np.linalg.inv(toeplitz([1.36, -0.6]))
        J = D.T @ W @ D
        others = np.arange(3) != j
        np.testing.assert_allclose(found.mean[i], -J[j, others] @ years[others] / J[j, j], rtol=1e-9)
        np.testing.assert_allclose(found.standard_error[i], J[j, j] ** -0.5, rtol=1e-9)
    with pytest.raises(ParameterError, match="more than 5000"):
        fit.fill(past_only=True)
    gaps[:2000] = np.nan
    with pytest.raises(ParameterError, match="fill a shorter part of the series"):
        fit.fill()


@pytest.mark.parametrize(
    ("y", "order", "least"),
    [
        (np.random.default_rng(131).standard_normal(60), (1, 0, 1), -79.336),
        (ARIMA([0.6], [0.4]).simulate(200, seed=58), (2, 0, 2), -283.63),
    ],
)
def test_a_ridge_of_the_likelihood_is_searched_from_all_about(y, order, least):
    """Autoregression and moving average that cancel: one start ends at a poorer maximum, as statsmodels' may."""
    assert fit_arima(y, order=order).log_likelihood > least


def test_a_flat_direction_leaves_the_errors_of_the_others():
    y = ARIMA([0.7, -0.2]).simulate(300, seed=3)
    errors = fit_arima(y, order=(2, 1, 1)).standard_errors  # statsmodels: .068 and .065
    assert np.isinf(errors["ma1"]) and 0.05 < errors["ar1"] < 0.08 and 0.05 < errors["ar2"] < 0.08
