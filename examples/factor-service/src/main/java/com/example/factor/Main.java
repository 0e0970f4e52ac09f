package com.example.factor;

import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;

/** Serves factors until it is told to stop, and then until the requests under way are answered. */
public final class Main {
    private static final int DEFAULT_PORT = 8080;
    private static final int THREADS = 8;
    private static final int SHUTDOWN_SECONDS = 10;

    private Main() {}

    public static void main(String[] args) throws IOException {
        String port = System.getenv("PORT");
        InetSocketAddress address =
                new InetSocketAddress(port == null || port.isEmpty() ? DEFAULT_PORT : Integer.parseInt(port));
        HttpServer server = HttpServer.create(address, 0);
        ExecutorService threads = Executors.newFixedThreadPool(THREADS);
        server.setExecutor(threads);
        server.createContext("/", new FactorHandler());
        server.start();
        System.out.printf("{\"msg\":\"serving\",\"port\":%d}%n", server.getAddress().getPort());

        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            System.out.println("{\"msg\":\"stopping\"}");
            server.stop(SHUTDOWN_SECONDS);
            threads.shutdown();
        }));
    }
}
