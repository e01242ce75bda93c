import { ConvexProviderWithAuth, ConvexReactClient } from "convex/react";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { App } from "./App";
import { ErrorBoundary } from "./ErrorBoundary";
import { SessionProvider, useSessionAuth } from "./session";
import "./style.css";

const convex = new ConvexReactClient(window.location.origin);
const root = document.getElementById("root");
if (root === null) throw new Error("index.html has no #root");

createRoot(root).render(
  <StrictMode>
    <ErrorBoundary>
      <SessionProvider>
        <ConvexProviderWithAuth client={convex} useAuth={useSessionAuth}>
          <App />
        </ConvexProviderWithAuth>
      </SessionProvider>
    </ErrorBoundary>
  </StrictMode>,
);
