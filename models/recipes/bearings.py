"""Simulates a bearing's acceleration and measures the sixteen features of it.

A healthy bearing hums with its shaft, its gears and broad noise; now and then something else knocks on the
machine. A fault adds a regular train of small blows that make the housing ring. How often they come tells
where the damage is: outer ring, inner ring or ball. Young faults are faint, which makes the task one.
"""

import numpy as np

RATE_HZ = 12_800
LENGTH = 4096  # 0.32 s: some eight turns of the shaft.

# Blows per turn of the shaft, for a bearing with nine balls; fixed by its geometry.
OUTER, INNER, BALL = 3.58, 5.42, 4.71

BANDS_HZ = [0, 400, 1000, 2000, 4000, 6400]

FEATURES = [
    "rms_g",
    "peak_g",
    "crest_factor",  # peak / rms
    "skewness",
    "kurtosis",  # 3 for plain noise; blows raise it.
    "impulse_factor",  # peak / mean magnitude
    "centroid_hz",  # Centre of the power spectrum.
    "spectral_entropy",  # 0: one tone, 1: all frequencies alike.
    "band_0_400_db",  # Power in the band, against 1 g^2.
    "band_400_1000_db",
    "band_1000_2000_db",
    "band_2000_4000_db",
    "band_4000_6400_db",
    "envelope_outer_db",  # The envelope's line at the blows of an outer ring fault, over the envelope's floor.
    "envelope_inner_db",
    "envelope_ball_db",
]

TIME = np.arange(LENGTH) / RATE_HZ
FREQUENCY = np.fft.rfftfreq(LENGTH, 1 / RATE_HZ)
WINDOW = np.hanning(LENGTH)


def measure_many(count, chance):
    """`count` bearings, every second one faulty: (features [count, 16], whether faulty)."""
    faulty = np.arange(count) % 2 == 1
    rows = [measure(*simulate(is_faulty, chance)) for is_faulty in faulty]
    return np.stack(rows).astype(np.float32), faulty


def simulate(is_faulty, chance):
    """One measurement: (acceleration in g, turns of the shaft per second)."""
    shaft_hz = chance.uniform(22, 30)
    noise_g = chance.uniform(0.08, 0.2)
    signal = chance.normal(0, noise_g, LENGTH)
    for harmonic in range(1, 5):
        signal += tone(harmonic * shaft_hz, chance.uniform(0.02, 0.3) / harmonic, chance)
    signal += tone(23 * shaft_hz, chance.uniform(0.02, 0.2), chance)  # The teeth of the gear.
    if chance.random() < 0.3:  # A knock from elsewhere: one or two, without rhythm.
        at = chance.uniform(0, TIME[-1], chance.integers(1, 3))
        signal += ringing(at, noise_g * chance.uniform(2, 6) * np.ones(len(at)), chance)
    if is_faulty:
        order = chance.choice([OUTER, INNER, BALL])
        period = 1 / (order * shaft_hz)
        at = np.arange(chance.uniform(0, period), TIME[-1], period)
        at = at + chance.normal(0, 0.01 * period, len(at))  # Balls slip a little.
        force = noise_g * chance.uniform(1.6, 8) * chance.uniform(0.7, 1.3, len(at))
        if order != OUTER:  # The damage turns with the shaft, into the load and out of it.
            force = force * (1 + 0.5 * np.cos(2 * np.pi * shaft_hz * at))
        signal += ringing(at, force, chance)
    return signal, shaft_hz


def tone(hz, amplitude, chance):
    return amplitude * np.sin(2 * np.pi * hz * TIME + chance.uniform(0, 2 * np.pi))


def ringing(at, force, chance):
    """The housing rings after each blow, and is quiet again within a few milliseconds."""
    resonance_hz, decay_s = chance.uniform(2200, 4500), chance.uniform(0.0008, 0.002)
    since = np.maximum(TIME[:, None] - at, 0)
    return (force * np.exp(-since / decay_s) * np.sin(2 * np.pi * resonance_hz * since)).sum(1)


def measure(signal, shaft_hz):
    """The sixteen numbers, in the order of FEATURES."""
    signal = signal - signal.mean()
    rms, peak = np.sqrt((signal**2).mean()), np.abs(signal).max()
    power = np.abs(np.fft.rfft(signal * WINDOW)) ** 2 / (LENGTH * (WINDOW**2).sum() / 2)
    share = power / power.sum()
    bands = [power[(low <= FREQUENCY) & (FREQUENCY < high)].sum() for low, high in zip(BANDS_HZ[:-1], BANDS_HZ[1:])]
    envelope = envelope_spectrum(signal)
    return np.array(
        [
            rms,
            peak,
            peak / rms,
            (signal**3).mean() / rms**3,
            (signal**4).mean() / rms**4,
            peak / np.abs(signal).mean(),
            (FREQUENCY * share).sum(),
            -(share * np.log(share + 1e-12)).sum() / np.log(len(share)),
            *(10 * np.log10(bands)),
            *(line_db(envelope, order * shaft_hz) for order in (OUTER, INNER, BALL)),
        ]
    )


def envelope_spectrum(signal):
    """How the loudness between 2 and 5 kHz swings: that is where housings ring."""
    spectrum = np.fft.fft(signal)
    hz = np.fft.fftfreq(LENGTH, 1 / RATE_HZ)
    analytic = np.fft.ifft(np.where((2000 <= hz) & (hz <= 5000), spectrum, 0))
    loudness = np.abs(analytic)
    return np.abs(np.fft.rfft((loudness - loudness.mean()) * WINDOW))


def line_db(envelope, hz):
    """The line at `hz` or at its double, whichever stands out more, over the median up to 500 Hz."""
    step = FREQUENCY[1]
    floor = np.median(envelope[3 : int(500 / step)])
    lines = [envelope[int(n * hz / step) - 1 : int(n * hz / step) + 3].max() for n in (1, 2)]
    return 20 * np.log10(max(lines) / floor)
