package com.example.factor;

import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpHandler;
import java.io.IOException;
import java.nio.charset.StandardCharsets;

/** What openapi.yaml describes, and /healthz for probes. */
final class FactorHandler implements HttpHandler {
    private static final String FACTORS = "/factors/";

    @Override
    public void handle(HttpExchange exchange) throws IOException {
        try (exchange) {
            String path = exchange.getRequestURI().getPath();
            if (!exchange.getRequestMethod().equals("GET")) {
                exchange.getResponseHeaders().set("Allow", "GET");
                answer(exchange, 405, "{\"error\":\"only GET is allowed\"}");
            } else if (path.equals("/healthz")) {
                answer(exchange, 200, "{\"status\":\"ok\"}");
            } else if (path.startsWith(FACTORS)) {
                factors(exchange, path.substring(FACTORS.length()));
            } else {
                answer(exchange, 404, "{\"error\":\"there is nothing here\"}");
            }
        }
    }

    private static void factors(HttpExchange exchange, String text) throws IOException {
        long number;
        try {
            number = Long.parseLong(text);
        } catch (NumberFormatException e) {
            number = 0; // which is refused
        }
        try {
            answer(exchange, 200, "{\"number\":" + number + ",\"factors\":" + Factors.of(number).toString().replace(" ", "") + "}");
        } catch (IllegalArgumentException e) {
            answer(exchange, 400, "{\"error\":\"" + e.getMessage() + "\"}");
        }
    }

    private static void answer(HttpExchange exchange, int status, String body) throws IOException {
        byte[] content = (body + "\n").getBytes(StandardCharsets.UTF_8);
        exchange.getResponseHeaders().set("Content-Type", "application/json");
        exchange.sendResponseHeaders(status, content.length);
        exchange.getResponseBody().write(content);
    }
}
