package com.example.factor;

import java.util.ArrayList;
import java.util.List;

/** Prime factors of whole numbers. */
final class Factors {
    /** The largest number whose factors are told: finding them takes about a hundredth of a second at most. */
    static final long LARGEST = 1_000_000_000_000L;

    private Factors() {}

    /**
     * Returns the prime factors of a number, in ascending order, each as often as it divides the number.
     *
     * @throws IllegalArgumentException for a number that is not between 1 and {@link #LARGEST}
     */
    static List<Long> of(long number) {
        if (number < 1 || number > LARGEST) {
            throw new IllegalArgumentException("number is not between 1 and " + LARGEST);
        }
        List<Long> factors = new ArrayList<>();
        long rest = number;
        for (long divisor = 2; divisor * divisor <= rest; divisor += divisor == 2 ? 1 : 2) {
            while (rest % divisor == 0) {
                factors.add(divisor);
                rest /= divisor;
            }
        }
        if (rest > 1) {
            factors.add(rest);
        }
        return factors;
    }
}
